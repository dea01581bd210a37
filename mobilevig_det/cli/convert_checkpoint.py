"""Rename a checkpoint's weights between the authors' names and ours.

This package loads the authors' files as they are. The command is for other code, which
knows only one of the layouts.
"""

import argparse
from pathlib import Path
from typing import TypeVar

from ..errors import UserError
from .arguments import make_parser
from .command import command

LAYOUTS = ('authors', 'mobilevig_det')
Weights = TypeVar('Weights', bound=dict)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(
        'Write a checkpoint, ImageNet or COCO, with the names of '
        "its backbone's weights in another layout. Everything else (order, "
        'values, classifier, heads, optimizer, …) stays as it is.'
    )
    parser.add_argument('input', help='checkpoint file to read')
    parser.add_argument('output', help='checkpoint file to write')
    parser.add_argument(
        '--to',
        choices=LAYOUTS,
        required=True,
        help="authors: the names of the authors' code; mobilevig_det: ours",
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='write also if the output file exists'
    )
    return parser.parse_args(argv)


def rename_weights(weights: Weights, layout: str) -> Weights:
    """Return a dict of the same type, with the metadata that torch keeps in it."""
    from ..checkpoints.key_mapping import convert

    result = type(weights)(convert(weights, layout))
    if hasattr(weights, '_metadata'):
        result._metadata = weights._metadata  # type: ignore[attr-defined]
    return result


def convert_checkpoint(checkpoint: dict, layout: str, name: str) -> dict:
    """Convert every set of weights: raw, averaged, or the bare dict.

    Args:
        checkpoint (dict): What was read from the file.
        layout (str): The layout to convert to, of ``LAYOUTS``.
        name (str): Of the file, for error messages.

    Raises:
        UserError: If there are no weights of a MobileViG in the other layout.
    """
    from ..checkpoints.key_mapping import find_backbones

    (other,) = set(LAYOUTS) - {layout}
    if find_backbones(checkpoint, other):
        return rename_weights(checkpoint, layout)
    found = [
        key
        for key, value in checkpoint.items()
        if isinstance(value, dict) and find_backbones(value, other)
    ]
    if found:
        return {
            key: rename_weights(value, layout) if key in found else value
            for key, value in checkpoint.items()
        }
    if any(
        find_backbones(weights, layout)
        for weights in (checkpoint, *checkpoint.values())
        if isinstance(weights, dict)
    ):
        raise UserError(f'{name} is in the layout {layout!r} already.')
    raise UserError(f'{name} holds no weights of a MobileViG.')


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from ..checkpoints.reading import read_checkpoint
    from ..io import atomic_write

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise UserError(f'{output} exists: give another name, or --overwrite.')
    checkpoint = convert_checkpoint(
        read_checkpoint(args.input, 'cpu'), args.to, args.input
    )
    try:
        with atomic_write(output) as part:
            torch.save(checkpoint, part)
    except (OSError, RuntimeError) as error:  # torch raises either
        raise UserError(f'{output} cannot be written: {error}') from error
    print(f'Wrote {output}, layout {args.to!r}.')
