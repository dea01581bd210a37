"""Write a checkpoint, ImageNet or COCO, with other names of its backbone's weights.

They are renamed between the authors' layout and ours. Everything else (order, values,
classifier, heads, optimizer) stays as it is. This package loads the authors' files as
they are: the command is for other code, which knows only one of the layouts.
"""

import argparse
from pathlib import Path

from ..errors import UserError
from .arguments import make_parser
from .command import command

LAYOUTS = ('authors', 'mobilevig_det')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
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


def convert_checkpoint(checkpoint: dict, layout: str, name: str) -> dict:
    """Convert every set of weights: raw, averaged, or the bare dict.

    Args:
        checkpoint (dict): What was read from the file.
        layout (str): The layout to convert to, of ``LAYOUTS``.
        name (str): Of the file, for error messages.

    Raises:
        UserError: If there are no weights of a MobileViG in the other layout.
    """
    from ..checkpoints.key_mapping import convert, find_backbones

    (other,) = set(LAYOUTS) - {layout}
    sets = {key: value for key, value in checkpoint.items() if isinstance(value, dict)}
    sets[None] = checkpoint
    converted = {}
    for key, weights in sets.items():
        if find_backbones(weights, other):
            converted[key] = type(weights)(convert(weights, layout))
            if hasattr(weights, '_metadata'):  # which torch keeps there
                converted[key]._metadata = weights._metadata  # type: ignore
    if not converted:
        if any(find_backbones(weights, layout) for weights in sets.values()):
            raise UserError(f'{name} is in the layout {layout!r} already.')
        raise UserError(f'{name} holds no weights of a MobileViG.')
    return converted.get(None) or {**checkpoint, **converted}


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
