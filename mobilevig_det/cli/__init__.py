"""The command line: ``mobilevig_det COMMAND ...`` or ``python -m mobilevig_det ...``.

Each command is a module of this package. These modules import slow libraries such as
PyTorch only after they have parsed their arguments, so that ``--help`` is fast.
"""

import difflib
import runpy
import sys
from importlib import import_module

from .. import __version__
from ..paths import clone_root, shipped_folder

COMMANDS = {
    'train': 'Train a detector or a classifier.',
    'test': 'Evaluate a checkpoint or an exported model on the test set.',
    'predict': 'Detect objects in images and videos, or classify images.',
    'infer': 'Do the same as predict.',
    'infer-ray': 'Do the same as predict --executor ray.',
    'export': 'Export a detector to ONNX, OpenVINO, ExecuTorch, Core ML or the web.',
    'check-data': 'Check the annotations and images of the data sets of a config.',
    'browse-data': 'Draw training images as the model gets them, after augmentation.',
    'analyze-errors': 'Show how much AP each kind of error costs.',
    'plot-run': 'Plot the loss, learning rate and AP of training runs.',
    'convert-checkpoint': "Convert a checkpoint between the authors' keys and ours.",
    'make-shapes': 'Generate a small data set of geometric shapes.',
    'demo': 'Generate data, train, evaluate and draw results, within minutes.',
    'demo-pretraining': 'Compare training from scratch with pretraining.',
    'env': 'Print versions, devices and operators for a bug report.',
    'run-onnx': 'Run an exported detector without PyTorch.',
    'benchmark': 'Measure speed and memory (needs a clone of the repository).',
    'reproduce': 'Measure the published figures (needs a clone of the repository).',
}
# Aliases: the command and the flags that each of them stands for.
ALIASES: dict[str, tuple[str, list[str]]] = {
    'infer': ('predict', []),
    'infer-ray': ('predict', ['--executor', 'ray']),
}
# Commands that the wheel does not contain, and their modules in a clone.
CLONE_COMMANDS = {
    'benchmark': 'benchmarks.command',
    'reproduce': 'reproduction.command',
}


def main(command: str | None = None) -> None:
    """Run one command.

    Args:
        command (str, optional): Name of the command, with hyphens. By default it is
            taken from the first argument of the program, where underscores are
            accepted as well.
    """
    if command is None:
        command = _take_command()
    if command == 'run-onnx':  # a single file that also runs without torch
        runpy.run_path(
            str(shipped_folder('tools') / 'run_onnx.py'), run_name='__main__'
        )
        return
    name, flags = ALIASES.get(command, (command, []))
    module = f'{__name__}.{name.replace("-", "_")}'
    if command in CLONE_COMMANDS:
        module, root = CLONE_COMMANDS[command], clone_root()
        if root is None:
            sys.exit(
                f'mobilevig_det {command} is not part of the installed package: it '
                'needs a clone of the repository. Run the same command there, or '
                f'python tools/{command}.py.'
            )
        sys.path.insert(0, str(root))
    import_module(module).main([*flags, *sys.argv[1:]])


def _take_command() -> str:
    """Remove the command's name from ``sys.argv`` and return it."""
    given = sys.argv[1] if len(sys.argv) > 1 else ''
    command = given.replace('_', '-')
    if command in COMMANDS:
        sys.argv[:2] = [f'mobilevig_det {command}']
        return command
    if given in ('-h', '--help'):
        print('usage: mobilevig_det COMMAND ...\n\nMobileViG for MMDetection\n')
        print('\n'.join(f'  {name:<20}{text}' for name, text in COMMANDS.items()))
        print('\nmobilevig_det COMMAND --help lists the options of a command.')
        sys.exit()
    if given == '--version':
        print(f'mobilevig_det {__version__}')
        sys.exit()
    similar = difflib.get_close_matches(command, COMMANDS, 1)
    problem = f'there is no command {given!r}' if given else 'name a command'
    problem += f'. Is it {similar[0]!r}?' if similar else ''
    print(
        f'usage: mobilevig_det COMMAND ...\nmobilevig_det: error: {problem}\n'
        f'Commands: {", ".join(COMMANDS)}. mobilevig_det --help describes them.',
        file=sys.stderr,
    )
    sys.exit(2)
