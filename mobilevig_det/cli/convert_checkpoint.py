"""Convert an ImageNet or COCO checkpoint between the authors' key layout and ours.

The weights of the backbone are renamed. Everything else (order, values, classifier,
heads, optimizer state) is unchanged. This package loads both layouts; the command is
for other code that knows only one of them.
"""

import argparse
from pathlib import Path

from ..errors import UserError
from .arguments import make_parser
from .command import command

LAYOUTS = ('authors', 'mobilevig_det')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    parser.add_argument('input', help='Checkpoint file to read.')
    parser.add_argument('output', help='Checkpoint file to write.')
    parser.add_argument(
        '--to',
        choices=LAYOUTS,
        required=True,
        help="Key layout to convert to: the authors' or that of this package.",
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='Replace the output file if it exists.'
    )
    return parser.parse_args(argv)


def convert_checkpoint(checkpoint: dict, layout: str, name: str) -> dict:
    """Rename the keys of every set of weights in a checkpoint.

    Args:
        checkpoint (dict): Content of the file: bare weights, or a dict with raw and
            perhaps averaged weights.
        layout (str): Key layout to convert to, one of ``LAYOUTS``.
        name (str): Name of the file, for error messages.

    Returns:
        dict: The converted checkpoint, which shares its tensors with the given one.

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
            if hasattr(weights, '_metadata'):  # set by torch on state dicts
                converted[key]._metadata = weights._metadata  # type: ignore
    if not converted:
        if any(find_backbones(weights, layout) for weights in sets.values()):
            raise UserError(f'{name} is already in the layout {layout!r}.')
        raise UserError(f'{name} contains no weights of MobileViG or its siblings.')
    return converted.get(None) or {**checkpoint, **converted}


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from ..checkpoints.reading import read_checkpoint
    from ..io import atomic_write

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise UserError(f'{output} exists: give another name, or pass --overwrite.')
    checkpoint = convert_checkpoint(
        read_checkpoint(args.input, 'cpu'), args.to, args.input
    )
    try:
        with atomic_write(output) as part:
            torch.save(checkpoint, part)
    except (OSError, RuntimeError) as error:  # torch raises either
        raise UserError(f'{output} cannot be written: {error}') from error
    print(f'Wrote {output}, layout {args.to!r}.')
