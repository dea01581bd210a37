"""Run a command: parse its arguments, register our classes, explain its errors."""

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

INTERRUPTED = 130  # exit code after Ctrl-C, as a shell has it
_DEAD_PROCESSES = (
    (
        r'DataLoader worker \(pid\D* [\d, ]+\) (is killed by|exited unexpectedly)',
        'A process that loads data was killed, as systems do when memory runs out: '
        'a smaller train_dataloader.num_workers (or val_dataloader.num_workers) '
        'needs less; in a container, look at its limits, also of /dev/shm.',
    ),
    (
        r'Connection (closed|reset) by peer',
        'Another process of this job died: its own messages, above or in its log, '
        'say why.',
    ),
)


def program_name() -> str:
    """Return how this program was called: ``mobilevig_det train`` or ``train.py``."""
    return Path(sys.argv[0]).name


def command(
    parse_args: Callable[[list[str] | None], Namespace], after_interrupt: str = ''
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate the function that does the work of a command.

    The decorated function takes the list of arguments (by default those of the program)
    instead of the parsed ones, and is run as by :func:`explain_errors`.

    Args:
        parse_args (Callable): Parses the list of arguments, and imports nothing slow.
        after_interrupt (str): What to do after Ctrl-C, for the message. Defaults to ''.
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
    """Decorate a function that a program runs.

    The decorated function registers our classes, loads all checkpoints safely (MMEngine
    asks torch for the unsafe mode on OneDL's packages, and before torch 2.6), and exits
    with one message after a mistake in the arguments or the config, if another process
    died, and after Ctrl-C (exit code 130).

    Args:
        run (Callable): The function.
        after_interrupt (str): What to do after Ctrl-C, for the message. Defaults to ''.
    """

    @functools.wraps(run)
    def main(*args: Any, **kwargs: Any) -> None:
        from .. import registration  # noqa: F401  first: it checks the versions
        from .. import engine  # noqa: F401  isort:skip  hooks by their short names
        from ..checkpoints import load_all_safely
        from ..engine.launch import leave_process_group

        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        with _raise_on_interrupt() as interrupts:
            try:
                run(*args, **kwargs)
            except BaseException as error:
                # Libraries turn a KeyboardInterrupt into errors of their own.
                if interrupts or isinstance(error, KeyboardInterrupt):
                    hint = f'; {after_interrupt}' if after_interrupt else ''
                    print(f'{program_name()}: stopped{hint}.', file=sys.stderr)
                    sys.exit(INTERRUPTED)
                if isinstance(error, SystemExit):  # as after a signal
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
        list[int]: Gets an entry for each Ctrl-C.
    """
    interrupts: list[int] = []
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # forked by a library
            os._exit(INTERRUPTED)
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is signal.SIG_IGN:  # as in a shell's background job
        yield interrupts
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def explain(error: Exception) -> str | None:
    """Return a message for the user if the error has a known cause, else None."""
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
    """Explain an error of MMEngine's loaders of checkpoints from addresses."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        address = frame.f_locals.get('filename')
        if frame.f_code.co_name == '_load_checkpoint' and isinstance(address, str):
            reason = f'{type(error).__name__}: {error}'
            text = f'The checkpoint {address} cannot be loaded ({reason}).'
            return re.sub(r'//[^/\s]*@', '//', text)  # passwords
    return None


def _explain_dead_process(error: Exception) -> str | None:
    """Explain an error that torch raises because another process died."""
    for pattern, meaning in _DEAD_PROCESSES:
        if re.search(pattern, str(error)):
            first_line = str(error).strip().splitlines()[0]
            return f'{meaning} Go on with --resume. ({first_line})'
    return None
