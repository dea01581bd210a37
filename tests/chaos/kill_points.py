"""Points inside a training at which it kills its whole process group."""

import builtins
import os
import signal
from dataclasses import dataclass

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

POINTER = 'last_checkpoint'
RANDOM = 'a random moment'

# What is going on: whether MMEngine's own hook comes by there, too.
POINTS = {
    RANDOM: True,
    'half of a checkpoint is written': True,
    'before fsync': False,
    'written, not yet renamed': False,
    'in place, before the pointer': True,
    'the pointer is open, and empty': True,
    'before an old checkpoint is deleted': True,
    'in a validation': True,
}


@dataclass
class Kill:
    """One kill to come.

    Args:
        point (str): Of ``POINTS``.
        passes (int): How often the point is passed before.
        fraction (float): Of the bytes that are written; of a random moment, of
            the time that a whole training takes.
    """

    point: str
    passes: int = 0
    fraction: float = 0.5

    def reached(self, point: str) -> bool:
        """Whether this is the point, and the time has come."""
        if point != self.point:
            return False
        self.passes -= 1
        return self.passes < 0


def kill_group() -> None:
    """As a machine that runs out of memory does: nobody can clean up."""
    os.killpg(0, signal.SIGKILL)
    signal.pause()


class KillInValidation(Hook):
    def __init__(self, kill: Kill) -> None:
        self.kill = kill

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1 and self.kill.reached('in a validation'):
            kill_group()


def arm(kill: Kill) -> None:
    """Put the kill into the functions that write. For a process that ends so."""

    def before(module, name, point, applies=lambda *args: True):
        real = getattr(module, name)

        def killing(*args, **kwargs):
            if applies(*args) and kill.reached(point):
                kill_group()
            return real(*args, **kwargs)

        setattr(module, name, killing)

    before(os, 'fsync', 'before fsync')
    before(os, 'replace', 'written, not yet renamed', _to_checkpoint)
    before(os, 'remove', 'before an old checkpoint is deleted', _is_checkpoint)
    _arm_checkpoint(kill)
    _arm_pointer(kill)


def _is_checkpoint(path, *args) -> bool:
    return str(path).endswith('.pth')


def _to_checkpoint(source, target, *args) -> bool:
    return _is_checkpoint(target)


def _arm_checkpoint(kill: Kill) -> None:
    real = LocalBackend.put

    def put(self, obj, filepath):
        if kill.reached('half of a checkpoint is written'):
            with open(filepath, 'wb') as file:
                file.write(obj[: int(kill.fraction * len(obj))])
            kill_group()
        real(self, obj, filepath)

    LocalBackend.put = put


def _arm_pointer(kill: Kill) -> None:
    real = builtins.open

    def opening(file, mode='r', *args, **kwargs):
        is_pointer = isinstance(file, (str, os.PathLike)) and os.path.basename(
            file
        ) in (POINTER, f'.{POINTER}.part')
        if is_pointer and 'w' in mode and kill.reached('in place, before the pointer'):
            kill_group()
        handle = real(file, mode, *args, **kwargs)
        if (
            is_pointer
            and 'w' in mode
            and kill.reached('the pointer is open, and empty')
        ):
            kill_group()
        return handle

    builtins.open = opening
