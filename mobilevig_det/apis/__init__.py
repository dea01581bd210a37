"""What the tools are made of. Running a detector over pictures, which needs
all of MMDetection, is in ``inference`` and the files beside it."""

from .cli import (
    add_cfg_options,
    add_runner_arguments,
    build_runner,
    command,
    find_checkpoint,
    find_config,
    load_config,
    prepare_config,
)

__all__ = [
    'add_cfg_options',
    'add_runner_arguments',
    'build_runner',
    'command',
    'find_checkpoint',
    'find_config',
    'load_config',
    'prepare_config',
]
