"""Decorators for commands: parse arguments, register classes and explain errors."""

import contextlib
import functools
import os
import re
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import UserError

INTERRUPTED = 130  # exit code after Ctrl-C, as shells report it
_DEAD_PROCESSES = (
    (
        r'DataLoader worker \(pid\D* [\d, ]+\) (is killed by|exited unexpectedly)',
        'A data loading worker was killed, most likely because the machine ran out '
        'of memory. Reduce train_dataloader.num_workers (or '
        'val_dataloader.num_workers); in a container, also check its memory limit '
        'and the size of /dev/shm.',
    ),
    (
        r'Connection (closed|reset) by peer',
        'Another process of this job died. Its own messages, above or in its log, '
        'say why.',
    ),
)


def program_name() -> str:
    """Return the program's name, such as ``mobilevig_det train`` or ``train.py``."""
    return Path(sys.argv[0]).name


def command(
    parse_args: Callable[[list[str] | None], Namespace], after_interrupt: str = ''
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of parsed arguments into the ``main`` of a command.

    The decorated function takes a list of argument strings, by default those of the
    program, parses them and calls the function within :func:`explain_errors`.

    Args:
        parse_args (Callable): Parses the list of arguments. It must not import slow
            libraries.
        after_interrupt (str): Advice that is printed after Ctrl-C. Defaults to ''.

    Returns:
        Callable: The decorator.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        run = explain_errors(run, after_interrupt)

        @functools.wraps(run)
        def main(argv: list[str] | None = None, **kwargs: Any) -> None:
            run(parse_args(argv), **kwargs)

        return main

    return decorate


def explain_errors(
    run: Callable[..., None], after_interrupt: str = ''
) -> Callable[..., None]:
    """Decorate the main function of a program.

    The decorated function registers our classes and makes MMEngine load all checkpoints
    safely. (MMEngine asks torch for the unsafe mode with OneDL's packages and before
    torch 2.6.) Instead of a traceback, it exits with one message after a mistake in the
    arguments or the config, after the death of another process of the job, and after
    Ctrl-C (exit code 130).

    Args:
        run (Callable): The function.
        after_interrupt (str): Advice that is printed after Ctrl-C. Defaults to ''.

    Returns:
        Callable: The decorated function, which takes the same arguments.
    """

    @functools.wraps(run)
    def main(*args: Any, **kwargs: Any) -> None:
        from .. import registration  # noqa: F401  first, as it checks the versions
        from .. import engine  # noqa: F401  isort:skip  registers hooks and loops
        from ..checkpoints import load_all_safely
        from ..engine.launch import leave_process_group

        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        with _raise_on_interrupt() as interrupts:
            try:
                run(*args, **kwargs)
            except BaseException as error:
                # Some libraries turn a KeyboardInterrupt into an error of their own.
                if interrupts or isinstance(error, KeyboardInterrupt):
                    hint = f'; {after_interrupt}' if after_interrupt else ''
                    print(f'{program_name()}: stopped{hint}.', file=sys.stderr)
                    sys.exit(INTERRUPTED)
                if isinstance(error, SystemExit):  # raised after a signal, for example
                    leave_process_group()
                    raise
                message = isinstance(error, Exception) and explain(error)
                if not message:
                    raise
                sys.exit(f'{program_name()}: {message}')
        leave_process_group()

    return main


@contextlib.contextmanager
def _raise_on_interrupt() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at Ctrl-C, instead of ending the process at once.

    Yields:
        list[int]: List to which each Ctrl-C appends its signal number.
    """
    interrupts: list[int] = []
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # in a process that a library forked
            os._exit(INTERRUPTED)
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is signal.SIG_IGN:  # ignored in background jobs of a shell
        yield interrupts
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def explain(error: Exception) -> str | None:
    """Explain an error that has a known cause.

    Args:
        error (Exception): The error.

    Returns:
        str | None: Message for the user, or None if the cause is unknown.
    """
    from ..config_errors import explain_config_error

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f'{error.strerror}: {error.filename!r}'
    return (
        explain_config_error(error)
        or _explain_address(error)
        or _explain_dead_process(error)
    )


def _explain_address(error: Exception) -> str | None:
    """Explain an error that MMEngine raises while it loads a checkpoint by address."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        address = frame.f_locals.get('filename')
        if frame.f_code.co_name == '_load_checkpoint' and isinstance(address, str):
            reason = f'{type(error).__name__}: {error}'
            text = f'The checkpoint {address} cannot be loaded ({reason}).'
            return re.sub(r'//[^/\s]*@', '//', text)  # hide passwords
    return None


def _explain_dead_process(error: Exception) -> str | None:
    """Explain an error that torch raises because another process died."""
    for pattern, meaning in _DEAD_PROCESSES:
        if re.search(pattern, str(error)):
            first_line = str(error).strip().splitlines()[0]
            return f'{meaning} Then resume with --resume. ({first_line})'
    return None
