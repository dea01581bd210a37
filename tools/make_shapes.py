#!/usr/bin/env python
"""Make the shapes data set: COCO's format, no download."""

import argparse

from mobilevig_det.apis.cli import command
from mobilevig_det.datasets.shapes import make_shapes


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out-dir', default='data/shapes', help='folder to write to')
    parser.add_argument('--num-train', type=int, default=600, help='training images')
    parser.add_argument('--num-val', type=int, default=100, help='held-out images')
    parser.add_argument(
        '--size', type=int, default=128, help='height and width, in pixels'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='the same seed, the same files'
    )
    parser.add_argument(
        '--num-classes',
        type=int,
        default=3,
        help='up to 5: circle, square, triangle, ring, cross',
    )
    args = parser.parse_args(argv)
    root = make_shapes(
        args.out_dir,
        args.num_train,
        args.num_val,
        args.size,
        args.seed,
        args.num_classes,
    )
    print(f'The data set is in {root}.')


if __name__ == '__main__':
    main()
