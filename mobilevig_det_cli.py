"""Entry point of the command line: parse arguments before the slow imports.

``import mobilevig_det`` imports torch and MMDetection and registers our classes, which
takes seconds. This module is outside of the package, so that ``mobilevig_det --help``
and a wrong flag are answered without that: while ``importing_command`` is true, the
package leaves the registration to the command, which does it after it has parsed its
arguments (``mobilevig_det/cli/command.py``).
"""

import os
import signal
import sys

importing_command = False
_process = os.getpid()


def main(command: str | None = None) -> None:
    """Run one command.

    Args:
        command: Its name, as ``'train'``. By default the first argument of the program
            names it.
    """
    global importing_command
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_on_interrupt)
    importing_command = True
    try:
        from mobilevig_det.cli import main
    finally:
        importing_command = False
    main(command)


def _exit_on_interrupt(number: int, frame: object) -> None:
    """Exit at once after Ctrl-C, with one line and a shell's exit code.

    Used while a command starts and ends: there is nothing to clean up then, and a
    KeyboardInterrupt would be lost in an import or at the interpreter's exit.
    """
    if os.getpid() == _process:  # not in one that a library has forked
        program = os.path.basename(sys.argv[0])
        os.write(2, f'{program}: stopped.\n'.encode())
    os._exit(128 + number)
