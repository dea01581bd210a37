"""Run a tool of tools/ in this process: no second import of torch."""

import importlib.util
from pathlib import Path

TOOLS = Path(__file__).parents[1] / 'tools'


def load(name):
    """The module tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *argv):
    """Exit code (or message) of ``tools/NAME.py ARGV…``; 0 if it returns."""
    try:
        load(name).main([str(arg) for arg in argv])
    except SystemExit as end:
        return end.code or 0
    return 0
