"""Lock a work dir, so that only one training at a time writes into it."""

import functools
import logging
import os
import socket
import stat

from mmengine.logging import print_log

from ..errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = '.training.lock'
_FLAGS = ('O_RDWR', 'O_CREAT', 'O_CLOEXEC', 'O_NOFOLLOW', 'O_NONBLOCK')
_held: dict[str, int] = {}  # descriptors by folder


def lock_folder(folder: str) -> None:
    """Lock a folder until :func:`unlock_folder` is called or this process ends.

    The kernel releases the lock when the process dies, however it dies. To be called on
    the first rank, for its job. A process can lock a folder that it has locked.

    Args:
        folder (str): Created if it does not exist.

    Raises:
        UserError: If another process holds the lock; the message names it.
    """
    folder = os.path.realpath(folder)
    if folder in _held:
        return
    handle = -1
    try:
        if fcntl is None:
            raise OSError('this system has no file locks')
        os.makedirs(folder, exist_ok=True)
        flags = sum(getattr(os, name) for name in _FLAGS)
        handle = os.open(os.path.join(folder, NAME), flags, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f'{NAME} is not a regular file')
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        owner = f'process {os.getpid()} on {socket.gethostname()}'
        os.write(handle, owner.encode())
    except BlockingIOError as error:
        owner = os.read(handle, 200).decode(errors='replace') or 'another process'
        os.close(handle)
        raise UserError(
            f'A training is running in {folder}: {owner}. Wait for its end or stop it, '
            'or choose another --work-dir.'
        ) from error
    except OSError as error:
        if handle >= 0:
            os.close(handle)
        print_log(
            f'{folder} cannot be locked ({error}): make sure that no other training '
            'writes into it.',
            'current',
            logging.WARNING,
        )
        return
    _close_in_forks()
    _held[folder] = handle


def unlock_folder(folder: str) -> None:
    """Release the lock of a folder, if this process holds it."""
    handle = _held.pop(os.path.realpath(folder), None)
    if handle is not None:
        os.close(handle)


_registered = False


@functools.cache
def _close_in_forks() -> None:
    """Keep forked processes, which may live longer, from holding the lock as well."""
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for handle in _held.values():
        os.close(handle)
    _held.clear()
