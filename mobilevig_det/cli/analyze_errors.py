"""Show where the AP is lost: by class, by size, by kind of error."""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import os.path as osp

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.cli.common import add_cfg_options, command
from mobilevig_det.config import load_config
from mobilevig_det.datasets.data_paths import check_data_paths, leaf_datasets
from mobilevig_det.errors import UserError
from mobilevig_det.evaluation.error_analysis import (
    LOSSES,
    SIZES,
    Loss,
    confusion,
    losses,
    mean_loss,
)

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from terminaltables import AsciiTable
from tqdm import tqdm

COLOURS = ('#4878d0', '#ee854a', '#6acc64', '#956cb4', '#d5d5d5')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Show where the AP is lost: by class, by size, by kind '
        'of error, as tables and plots.'
    )
    parser.add_argument(
        'config', help='config file: a path, or the name of one of ours'
    )
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


def load_truth(cfg: Config) -> tuple:
    """The annotations of the config's test set, its classes and their ids."""
    check_data_paths(cfg, ['test'])
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    dataset_cfg, *others = leaf_datasets(cfg.test_dataloader.dataset)
    if others:
        raise UserError(
            'The config has several test sets: choose one with '
            '--cfg-options test_dataloader.dataset=…'
        )
    dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset.ann_file)
    ids = {c['name']: c['id'] for c in truth.loadCats(truth.getCatIds())}
    classes = [name for name in dataset.metainfo['classes'] if name in ids]
    if not classes:
        raise UserError(
            f"None of the config's classes is in "
            f'{dataset.ann_file}: tools/check_data.py '
            f'{cfg.filename} says more.'
        )
    return truth, classes, [ids[name] for name in classes], dataset.ann_file


def load_predictions(path: str) -> list[dict]:
    """The detections in a results file, or in one of tools/infer.py."""
    if path.endswith(('.pkl', '.pickle')):
        raise UserError(
            f'{path} is a pickle, which could run code when it is loaded. '
            'Let tools/test.py write JSON: --cfg-options '
            'test_evaluator.outfile_prefix=PREFIX'
        )
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as JSON: {error}') from error
    if isinstance(content, dict):
        content = content.get('annotations')
    keys = {'image_id', 'category_id', 'score'}
    if not isinstance(content, list) or not all(
        isinstance(item, dict) and keys <= set(item) for item in content
    ):
        raise UserError(
            f'{path} does not hold detections in COCO format: a list of '
            'objects with image_id, category_id, score and bbox or '
            'segmentation.'
        )
    if not content:
        raise UserError(f'{path} holds no detections.')
    return content


def compare(
    truth: COCO, predictions: list[dict], kind: str | None, names: dict[str, str]
) -> tuple:
    """What is compared, and the predictions as pycocotools has them."""
    masks = all('segmentation' in item for item in predictions)
    if kind == 'segm' and not masks:
        raise UserError(f'{names["predictions"]} has no masks: use --type bbox.')
    kind = kind or ('segm' if masks else 'bbox')
    unknown = {item['image_id'] for item in predictions} - set(truth.imgs)
    if unknown:
        raise UserError(
            f'{names["predictions"]} has detections in {len(unknown)} images '
            f'that {names["truth"]} does not have (image_id '
            f'{", ".join(map(str, sorted(unknown, key=str)[:5]))}): it was '
            'made of another data set.'
        )
    if kind == 'segm':
        # Else pycocotools takes sizes and shapes from the boxes.
        predictions = [
            {key: value for key, value in item.items() if key != 'bbox'}
            for item in predictions
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        return kind, truth.loadRes(predictions)


def rows_of(by_class: dict[str, dict[str, Loss]]) -> dict[str, Loss]:
    rows = {name: sizes['all'] for name, sizes in by_class.items()}
    for size in SIZES:
        name = 'all' if size == 'all' else f'all, {size}'
        rows[name] = mean_loss([sizes[size] for sizes in by_class.values()])
    return rows


def show_table(rows: dict[str, Loss]) -> None:
    table = [
        [
            'class',
            'objects',
            'AP',
            'AP75',
            'AP50',
            *(f'lost: {name}' for name in LOSSES),
        ]
    ]
    for name, loss in rows.items():
        table.append(
            [name, loss.objects]
            + ['-' if math.isnan(value) else f'{value:.3f}' for value in loss[1:]]
        )
    print(AsciiTable(table).table)


def write_csv(rows: dict[str, Loss], path: str) -> None:
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['class', *Loss._fields])
        writer.writerows([name, *loss] for name, loss in rows.items())


def plot_losses(rows: dict[str, Loss], kind: str, path: str) -> None:
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    rows = {name: loss for name, loss in rows.items() if loss.objects}
    names = list(rows)[::-1]
    figure, axes = plt.subplots(
        figsize=(9, 1.4 + 0.32 * len(names)), layout='constrained'
    )
    left = np.zeros(len(names))
    for part, colour in zip(('ap50', *LOSSES), COLOURS):
        values = np.array([getattr(rows[name], part) for name in names])
        axes.barh(
            names,
            values,
            left=left,
            color=colour,
            label='AP50' if part == 'ap50' else part,
        )
        for y, (start, value) in enumerate(zip(left, values)):
            if value > 0.045:
                axes.text(
                    start + value / 2,
                    y,
                    f'{value:.2f}',
                    ha='center',
                    va='center',
                    fontsize=8,
                )
        left += values
    axes.set(xlim=(0, 1), title=f'Where AP50 is lost ({kind})')
    axes.margins(y=0.02)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_confusion(
    counts: np.ndarray, classes: list[str], score_thr: float, path: str
) -> None:
    import matplotlib.pyplot as plt

    sums = counts.sum(1, keepdims=True)
    share = counts / np.maximum(sums, 1)
    side = 3 + 0.36 * len(classes)
    figure, axes = plt.subplots(figsize=(side + 0.8, side), layout='constrained')
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
    ticks = range(len(classes) + 1)
    axes.set_xticks(ticks, [*classes, 'missed'], rotation=90)
    axes.set_yticks(ticks, [*classes, 'background'])
    axes.set(
        xlabel='predicted',
        ylabel='true',
        title=f'Counts at a score of {score_thr:g}, IoU 0.5',
    )
    for i, j in zip(*np.nonzero(counts)):
        axes.text(
            j,
            i,
            counts[i, j],
            ha='center',
            va='center',
            fontsize=8 if len(classes) < 30 else 4,
            color='white' if share[i, j] > 0.6 else 'black',
        )
    figure.colorbar(image, shrink=0.7, label='share of the row')
    figure.savefig(path, dpi=130)
    plt.close(figure)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    truth, classes, ids, ann_file = load_truth(cfg)
    kind, found = compare(
        truth,
        load_predictions(args.predictions),
        args.type,
        dict(truth=ann_file, predictions=args.predictions),
    )
    by_class = dict(
        zip(
            classes,
            tqdm(losses(truth, found, kind, ids), total=len(classes), unit='class'),
        )
    )
    rows = rows_of(by_class)
    counts = confusion(truth, found, kind, ids, args.score_thr)

    os.makedirs(args.out_dir, exist_ok=True)
    paths = [
        osp.join(args.out_dir, name)
        for name in ('errors.csv', 'errors.png', 'confusion_matrix.png')
    ]
    write_csv(rows, paths[0])
    plot_losses(rows, kind, paths[1])
    plot_confusion(counts, classes, args.score_thr, paths[2])
    show_table(rows)
    print(
        f'{"Masks" if kind == "segm" else "Boxes"} of {args.predictions} '
        f'against {ann_file}.\nAP50 and the four losses add up to 1.\n'
        'Written: ' + ', '.join(paths)
    )
