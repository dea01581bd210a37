"""The command-line interface: ``mobilevig_det SUBCOMMAND ...``."""

import importlib
import sys
from pathlib import Path

COMMANDS = sorted(
    path.stem
    for path in Path(__file__).parent.glob('[a-z]*.py')
    if path.stem not in ('common', 'config_slips', 'dead_processes')
)


def main() -> None:
    """Run the subcommand that the first argument names."""
    name = (sys.argv[1] if len(sys.argv) > 1 else '').replace('-', '_')
    if name not in COMMANDS:
        sys.exit(
            'usage: python -m mobilevig_det TOOL …, where TOOL is one '
            f'of {", ".join(COMMANDS)}; TOOL --help tells more'
        )
    sys.argv[:2] = [f'{name}.py']
    importlib.import_module(f'{__name__}.{name}').main()
