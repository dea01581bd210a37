"""Run a tool of tools/ in this process: no second import of torch."""

import importlib.util
from pathlib import Path

TOOLS = Path(__file__).parents[2] / 'tools'
# Options with which a config of the shapes is quick.
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
    """The module of a subcommand, or tools/NAME.py."""
    if importlib.util.find_spec(f'mobilevig_det.cli.{name}'):
        return importlib.import_module(f'mobilevig_det.cli.{name}')
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


def refusal(name, *args):
    """The message with which a tool refuses its arguments."""
    message = run(name, *args)
    assert isinstance(message, str), message
    return message
