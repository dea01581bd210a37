"""Arguments that several commands have in common.

Like every module of a command, this one imports nothing slow.
"""

import argparse
from collections.abc import Callable

from .command import program_name

# What parsers offer; they can't import the modules that define it.
ARCHS = {
    'MobileViG': ('ti', 's', 'm', 'b'),
    'MobileViGv2': ('ti', 's', 'm', 'b'),
    'GreedyViG': ('s', 'm', 'b'),
    'RapidNet': ('ti', 's', 'm', 'b'),
    'AdaptViG': ('s', 'm', 'b'),
}
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser without arguments, named as the program was called.

    Args:
        doc (str | None): Docstring of the command's module, which ``--help`` shows.
    """
    return argparse.ArgumentParser(prog=program_name(), description=doc)


def make_config_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments ``config`` and ``--cfg-options``."""
    parser = make_parser(doc)
    parser.add_argument(
        'config', help='config file: a path, or the name of one of ours'
    )
    add_cfg_options(parser)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    The parser gives a list of strings, which ``load_config`` reads: MMEngine's
    ``DictAction`` is slow to import.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        type=_key_value,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. '
        'train_dataloader.batch_size=4 model.backbone.init_cfg=None; lists '
        'as key="[a,b]", without spaces',
    )


def _key_value(text: str) -> str:
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE')
    return text


def positive(number: type[int] | type[float]) -> Callable[[str], float]:
    """Return an argument type: a number of that type that is greater than 0."""

    def parse(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError('must be more than 0')
        return value

    parse.__name__ = number.__name__  # argparse names it in its error message
    return parse


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that MMDetection's train.py and test.py have in common."""
    parser.add_argument('--work-dir', help='folder for logs and results')
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='job launcher'
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
