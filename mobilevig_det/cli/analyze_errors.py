"""Show how much AP each kind of error costs, by class and by object size."""

import argparse
from pathlib import Path

from .arguments import make_config_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    parser.add_argument(
        'predictions',
        help='Detections in the images of the test set, as COCO-format JSON. Write '
        'them with mobilevig_det predict --score-thr 0, or with mobilevig_det test '
        '--cfg-options test_evaluator.outfile_prefix=PREFIX (PREFIX.segm.json).',
    )
    parser.add_argument(
        '--out-dir',
        default='work_dirs/errors',
        help='Write the table and the plots to this folder (default: %(default)s).',
    )
    parser.add_argument(
        '--type',
        choices=['bbox', 'segm'],
        help='Compare boxes or masks. By default, masks if the detections have them.',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='Leave detections with a lower score out of the confusion matrix '
        '(default: %(default)s).',
    )
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from tqdm import tqdm

    from ..config import load_config
    from ..evaluation.error_analysis import confusion, losses
    from . import error_report

    cfg = load_config(args.config, args.cfg_options)
    truth, ids, ann_file = error_report.load_truth(cfg)
    kind, found = error_report.match_images(args.predictions, truth, args.type)
    category_ids = list(ids.values())
    each = losses(truth, found, kind, category_ids)
    each = tqdm(each, total=len(ids), unit='class')
    rows = error_report.rows_of(dict(zip(ids, each)))
    counts = confusion(truth, found, kind, category_ids, args.score_thr)

    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    names = 'errors.csv', 'errors.png', 'confusion_matrix.png'
    table, plot, matrix = (str(out / name) for name in names)
    error_report.write_csv(rows, table)
    error_report.plot_losses(rows, kind, plot)
    error_report.plot_confusion(counts, list(ids), args.score_thr, matrix)
    error_report.show_table(rows)
    print(
        f'{"Masks" if kind == "segm" else "Boxes"} of {args.predictions} '
        f'against {ann_file}.\nAP50 and the four losses add up to 1.\n'
        f'Written: {table}, {plot}, {matrix}'
    )
