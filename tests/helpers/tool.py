"""Run the tools in this process, which has imported torch already."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

from mobilevig_det import cli

TOOLS = Path(__file__).parents[2] / 'tools'
# Options that make a config of the shapes data set fast.
SMALL = [
    '--cfg-options',
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'test_dataloader.dataset.pipeline.1.scale=(64,64)',
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val', 'test')
        for key in ('num_workers=0', 'persistent_workers=False')
    ),
    'train_cfg.val_interval=9',
    'default_hooks.logger.interval=1',
]


def load(name):
    """Return the module of a subcommand, or of tools/NAME.py."""
    if name in cli.CLONE_COMMANDS:
        return importlib.import_module(cli.CLONE_COMMANDS[name])
    name, _ = cli.ALIASES.get(name, (name, []))
    if importlib.util.find_spec(f'mobilevig_det.cli.{name}'):
        return importlib.import_module(f'mobilevig_det.cli.{name}')
    spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *argv):
    """Run ``tools/NAME.py ARGV``; return its exit code or message, 0 if it returns."""
    try:
        with mock.patch.object(sys, 'argv', [f'{name}.py', *map(str, argv)]):
            cli.main(name.replace('_', '-'))
    except SystemExit as end:
        return end.code or 0
    return 0


def refusal(name, *args):
    """Return the message with which a tool refuses its arguments."""
    message = run(name, *args)
    assert isinstance(message, str), message
    return message
