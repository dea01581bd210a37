"""Entry point of the command line: parse arguments before the slow imports.

``import mobilevig_det`` imports torch and MMDetection and registers our classes, which
takes seconds. This module is outside of the package, so that ``mobilevig_det --help``
and a wrong flag are answered without that: while ``importing_command`` is true, the
package leaves the registration to the command, which does it after it has parsed its
arguments (``mobilevig_det/cli/command.py``).
"""

importing_command = False


def main(command: str | None = None) -> None:
    """Run one command.

    Args:
        command: Its name, as ``'train'``. By default the first argument of the program
            names it.
    """
    global importing_command
    importing_command = True
    try:
        from mobilevig_det.cli import main
    finally:
        importing_command = False
    main(command)
