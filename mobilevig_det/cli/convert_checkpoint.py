"""Rename a checkpoint's weights between the authors' names and ours.

Nothing here needs it: the authors' files load as they are. It is for other
people's code, which knows one of the layouts only.
"""

import argparse
import os
from pathlib import Path

from mobilevig_det.checkpoints.key_mapping import LAYOUTS, convert, find_backbones
from mobilevig_det.checkpoints.reading import read_checkpoint
from mobilevig_det.cli.common import command
from mobilevig_det.errors import UserError

import torch


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a checkpoint, ImageNet or COCO, with the names of '
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
    return parser.parse_args()


def renamed(weights: dict, layout: str) -> dict:
    """The same type of dict, with what torch keeps beside its keys."""
    result = type(weights)(convert(weights, layout))
    if hasattr(weights, '_metadata'):
        result._metadata = weights._metadata
    return result


def convert_checkpoint(checkpoint: dict, layout: str, name: str) -> dict:
    """Convert every set of weights: raw, averaged, or the bare dict."""
    (other,) = set(LAYOUTS) - {layout}
    if find_backbones(checkpoint, other):
        return renamed(checkpoint, layout)
    found = [
        key
        for key, value in checkpoint.items()
        if isinstance(value, dict) and find_backbones(value, other)
    ]
    if found:
        return {
            key: renamed(value, layout) if key in found else value
            for key, value in checkpoint.items()
        }
    if any(
        find_backbones(weights, layout)
        for weights in (checkpoint, *checkpoint.values())
        if isinstance(weights, dict)
    ):
        raise UserError(f'{name} is in the layout {layout!r} already.')
    raise UserError(f'{name} holds no weights of a MobileViG.')


@command
def main() -> None:
    args = parse_args()
    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise UserError(f'{output} exists: give another name, or --overwrite.')
    checkpoint = convert_checkpoint(
        read_checkpoint(args.input, 'cpu'), args.to, args.input
    )
    part = output.with_name(f'{output.name}.{os.getpid()}.part')
    try:
        torch.save(checkpoint, part)
        os.replace(part, output)
    except (OSError, RuntimeError) as error:  # torch raises either
        raise UserError(f'{output} cannot be written: {error}') from error
    finally:
        part.unlink(missing_ok=True)
    print(f'Wrote {output}, layout {args.to!r}.')
