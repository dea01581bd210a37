"""Show how much AP each kind of error costs, by class and by size of objects."""

import argparse
import os
import os.path as osp

from .arguments import add_cfg_options, add_config, make_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(
        'Show where the AP is lost: by class, by size, by kind of error, as tables '
        'and plots.'
    )
    add_config(parser)
    parser.add_argument(
        'predictions',
        help='COCO-format JSON: what tools/infer.py --score-thr 0 wrote for '
        'the images of the test set, or tools/test.py with --cfg-options '
        'test_evaluator.outfile_prefix=PREFIX (PREFIX.segm.json)',
    )
    parser.add_argument(
        '--out-dir', default='work_dirs/errors', help='(default: %(default)s)'
    )
    parser.add_argument(
        '--type',
        choices=['bbox', 'segm'],
        help='what is compared; by default masks if there are any',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='for the confusion matrix (default: %(default)s)',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from tqdm import tqdm

    from ..config import load_config
    from ..evaluation.error_analysis import confusion, losses
    from . import error_report

    cfg = load_config(args.config, args.cfg_options)
    truth, classes, ids, ann_file = error_report.load_truth(cfg)
    kind, found = error_report.compare(
        truth,
        error_report.load_predictions(args.predictions),
        args.type,
        dict(truth=ann_file, predictions=args.predictions),
    )
    by_class = dict(
        zip(
            classes,
            tqdm(losses(truth, found, kind, ids), total=len(classes), unit='class'),
        )
    )
    rows = error_report.rows_of(by_class)
    counts = confusion(truth, found, kind, ids, args.score_thr)

    os.makedirs(args.out_dir, exist_ok=True)
    paths = [
        osp.join(args.out_dir, name)
        for name in ('errors.csv', 'errors.png', 'confusion_matrix.png')
    ]
    error_report.write_csv(rows, paths[0])
    error_report.plot_losses(rows, kind, paths[1])
    error_report.plot_confusion(counts, classes, args.score_thr, paths[2])
    error_report.show_table(rows)
    print(
        f'{"Masks" if kind == "segm" else "Boxes"} of {args.predictions} '
        f'against {ann_file}.\nAP50 and the four losses add up to 1.\n'
        'Written: ' + ', '.join(paths)
    )
