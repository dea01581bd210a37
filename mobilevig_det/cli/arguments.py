"""Command-line arguments that several commands share.

Commands import this module before they parse their arguments, so it must not import
slow libraries.
"""

import argparse
from collections.abc import Callable

from .command import program_name

# Choices of the parsers, repeated because the modules that define them import torch.
ARCHS = {
    'MobileViG': ('ti', 's', 'm', 'b'),
    'MobileViGv2': ('ti', 's', 'm', 'b'),
    'GreedyViG': ('s', 'm', 'b'),
    'RapidNet': ('ti', 's', 'm', 'b'),
    'AdaptViG': ('s', 'm', 'b'),
}
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser without arguments whose name is that of the running program.

    Args:
        doc (str | None): Docstring of the command's module, which ``--help`` shows.

    Returns:
        ArgumentParser: The parser.
    """
    return argparse.ArgumentParser(prog=program_name(), description=doc)


def make_config_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments ``config`` and ``--cfg-options``.

    Args:
        doc (str | None): Docstring of the command's module, which ``--help`` shows.

    Returns:
        ArgumentParser: The parser.
    """
    parser = make_parser(doc)
    parser.add_argument(
        'config', help='Config file: a path, or the name of a config of this package.'
    )
    add_cfg_options(parser)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which overrides settings of the config.

    The parsed value is a list of strings ``KEY=VALUE``, which ``load_config`` parses.
    MMEngine's ``DictAction`` would parse them here, but it is slow to import.

    Args:
        parser (ArgumentParser): The parser to extend.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        type=_key_value,
        metavar='KEY=VALUE',
        help='Override settings of the config, for example '
        'train_dataloader.batch_size=4 model.backbone.init_cfg=None. Write lists '
        'as key="[a,b]", without spaces.',
    )


def _key_value(text: str) -> str:
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE')
    return text


def positive(number: type[int] | type[float]) -> Callable[[str], float]:
    """Return an argparse type that accepts only numbers greater than 0.

    Args:
        number (type): Type of the number, ``int`` or ``float``.

    Returns:
        Callable[[str], float]: The function to pass to ``add_argument`` as ``type``.
    """

    def parse(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError('must be more than 0')
        return value

    parse.__name__ = number.__name__  # shown in argparse's error message
    return parse


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that MMDetection's train.py and test.py share.

    Args:
        parser (ArgumentParser): The parser to extend.
    """
    parser.add_argument(
        '--work-dir',
        help='Write logs and results to this folder (default: the work_dir of the '
        'config, else work_dirs/CONFIG).',
    )
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='Launcher that started the processes of a distributed job (default: '
        '%(default)s).',
    )
    # torch.distributed.launch passes this flag; torchrun sets LOCAL_RANK instead.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='Rank of the process on its machine, set by torch.distributed.launch.',
    )
