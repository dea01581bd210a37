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


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser without arguments, named as the program was called."""
    return argparse.ArgumentParser(prog=program_name(), description=description)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument ``config``."""
    parser.add_argument(
        'config', help='config file: a path, or the name of one of ours'
    )


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


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError('must be between 0 and 1')
    return value


def add_inference_arguments(parser: argparse.ArgumentParser, checkpoint: str) -> None:
    """Add the flags that the commands ``infer`` and ``infer-ray`` have in common.

    Args:
        parser (ArgumentParser): The parser to add them to.
        checkpoint (str): What ``--checkpoint`` takes.
    """
    parser.add_argument(
        '--config',
        help='config file: a path, or the name of one of ours; by default '
        'the one in the folder of the checkpoint',
    )
    parser.add_argument(
        '--checkpoint',
        help=f'{checkpoint}; if neither is given, the run of `make demo`',
    )
    parser.add_argument(
        '--score-thr',
        type=_score,
        default=0.3,
        help='leave out detections with a lower score (default: %(default)s); to '
        'compute AP, use 0',
    )
    parser.add_argument(
        '--batch-size',
        type=positive(int),
        help='images in a batch; they are padded to one size (default: as many as have '
        'the pixels of one image of 800x1344, at most 8)',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='resume an earlier run that wrote into the same --out-dir',
    )
    add_cfg_options(parser)


def add_launcher(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--launcher``."""
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help=purpose)


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that MMDetection's train.py and test.py have in common."""
    parser.add_argument('--work-dir', help='folder for logs and results')
    add_cfg_options(parser)
    add_launcher(parser, 'job launcher')
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
