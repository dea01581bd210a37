"""The tools without a clone: ``python -m mobilevig_det train CONFIG …``."""

import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Run the tool that the first argument names with the others."""
    tools = sorted(path.stem for path in TOOLS.glob('*.py'))
    if len(sys.argv) < 2 or sys.argv[1] not in tools:
        sys.exit(
            'usage: python -m mobilevig_det TOOL …, where TOOL is one '
            f'of {", ".join(tools)}; TOOL --help tells more'
        )
    path = str((TOOLS / f'{sys.argv[1]}.py').resolve())
    sys.argv[:2] = [path]
    runpy.run_path(path, run_name='__main__')


if __name__ == '__main__':
    main()
