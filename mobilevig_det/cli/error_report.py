"""Tables and plots of an error analysis, and the loading of its input files."""

import contextlib
import csv
import io
import json
import math

import numpy as np
from matplotlib.figure import Figure
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from terminaltables import AsciiTable

from ..datasets.data_paths import check_data_paths, leaf_datasets
from ..errors import UserError
from ..evaluation.error_analysis import LOSSES, SIZES, Loss, mean_loss

COLOURS = ('#4878d0', '#ee854a', '#6acc64', '#956cb4', '#d5d5d5')


def load_truth(cfg: Config) -> tuple[COCO, dict[str, int], str]:
    """Load the annotations of the config's test set.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[COCO, dict[str, int], str]: The annotations, the category ids by class
        name, and the path of the annotation file.

    Raises:
        UserError: If there are several test sets, or if the annotations contain none
            of the config's classes.
    """
    check_data_paths(cfg, ['test'])
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    dataset_cfg, *others = leaf_datasets(cfg.test_dataloader.dataset)
    if others:
        raise UserError(
            'The config has several test sets: choose one with '
            '--cfg-options test_dataloader.dataset=DATASET'
        )
    dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset.ann_file)
    ids = {c['name']: c['id'] for c in truth.loadCats(truth.getCatIds())}
    ids = {name: ids[name] for name in dataset.metainfo['classes'] if name in ids}
    if not ids:
        raise UserError(
            f"None of the config's classes is in {dataset.ann_file}. For details, run "
            f'tools/check_data.py {cfg.filename}.'
        )
    return truth, ids, dataset.ann_file


def load_predictions(path: str) -> list[dict]:
    """Load detections in COCO's results format or as ``predict`` writes them.

    Args:
        path (str): JSON file.

    Returns:
        list[dict]: Detections with ``image_id``, ``category_id``, ``score``, and
        ``bbox`` or ``segmentation``.

    Raises:
        UserError: If the file is a pickle, unreadable, in another format, or empty.
    """
    if path.endswith(('.pkl', '.pickle')):
        raise UserError(
            f'{path} is a pickle, which could run code when it is loaded. '
            'Have tools/test.py write JSON instead: --cfg-options '
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
            f'{path} does not hold detections in COCO format: a list of objects with '
            'image_id, category_id, score and bbox or segmentation.'
        )
    if not content:
        raise UserError(f'{path} holds no detections.')
    return content


def match_images(path: str, truth: COCO, kind: str | None) -> tuple[str, COCO]:
    """Load detections and match them with the images of a test set.

    Args:
        path (str): File of detections, see :func:`load_predictions`.
        truth (COCO): The annotations of the test set.
        kind (str | None): ``bbox``, ``segm``, or None for masks if all detections have
            them, else boxes.

    Returns:
        tuple[str, COCO]: ``bbox`` or ``segm``, and the detections.

    Raises:
        UserError: As :func:`load_predictions`, and if masks were asked for and are
            missing, or if images are not in the test set.
    """
    found = load_predictions(path)
    masks = all('segmentation' in item for item in found)
    if kind == 'segm' and not masks:
        raise UserError(f'{path} has no masks: use --type bbox.')
    unknown = sorted({item['image_id'] for item in found} - set(truth.imgs), key=str)
    if unknown:
        raise UserError(
            f'{path} has detections in {len(unknown)} images that the test set does '
            f'not have (image_id {", ".join(map(str, unknown[:5]))}): it was made from '
            'another data set.'
        )
    kind = kind or ('segm' if masks else 'bbox')
    if kind == 'segm':
        # If there are boxes, pycocotools takes areas and shapes from them.
        found = [{k: v for k, v in item.items() if k != 'bbox'} for item in found]
    with contextlib.redirect_stdout(io.StringIO()):
        return kind, truth.loadRes(found)


def rows_of(by_class: dict[str, dict[str, Loss]]) -> dict[str, Loss]:
    """Return the rows of the table: one for each class, then means by object size.

    Args:
        by_class (dict[str, dict[str, Loss]]): Losses by class name and object size.

    Returns:
        dict[str, Loss]: Losses by the name of the row.
    """
    rows = {name: sizes['all'] for name, sizes in by_class.items()}
    for size in SIZES:
        name = 'all' if size == 'all' else f'all, {size}'
        rows[name] = mean_loss([sizes[size] for sizes in by_class.values()])
    return rows


def show_table(rows: dict[str, Loss]) -> None:
    """Print the rows as a table."""
    head = 'class objects AP AP75 AP50'.split() + [f'lost: {name}' for name in LOSSES]
    table: list[list] = [head]
    for name, (objects, *values) in rows.items():
        shown = ['-' if math.isnan(value) else f'{value:.3f}' for value in values]
        table.append([name, objects, *shown])
    print(AsciiTable(table).table)


def write_csv(rows: dict[str, Loss], path: str) -> None:
    """Write the rows to a CSV file."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['class', *Loss._fields])
        writer.writerows([name, *loss] for name, loss in rows.items())


def plot_losses(rows: dict[str, Loss], kind: str, path: str) -> None:
    """Plot AP50 and the losses of each row as a stacked bar."""
    rows = {name: loss for name, loss in rows.items() if loss.objects}
    names = list(rows)[::-1]
    figure = Figure(figsize=(9, 1.4 + 0.32 * len(names)), layout='constrained')
    axes = figure.subplots()
    left = np.zeros(len(names))
    for part, colour in zip(('ap50', *LOSSES), COLOURS):
        values = np.array([getattr(rows[name], part) for name in names])
        label = 'AP50' if part == 'ap50' else part
        bars = axes.barh(names, values, left=left, color=colour, label=label)
        texts = [f'{value:.2f}' if value > 0.045 else '' for value in values]
        axes.bar_label(bars, texts, label_type='center', fontsize=8)
        left += values
    axes.set(xlim=(0, 1), title=f'Where AP50 is lost ({kind})')
    axes.margins(y=0.02)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def plot_confusion(
    counts: np.ndarray, classes: list[str], score_thr: float, path: str
) -> None:
    """Plot a confusion matrix.

    Args:
        counts (np.ndarray): Integers of shape (C + 1, C + 1), as
            :func:`.error_analysis.confusion` returns them.
        classes (list[str]): Names of the C classes.
        score_thr (float): Score threshold of the matrix, for the title.
        path (str): Image file to write.
    """
    sums = counts.sum(1, keepdims=True)
    share = counts / np.maximum(sums, 1)
    side = 3 + 0.36 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
    ticks = range(len(classes) + 1)
    axes.set_xticks(ticks, [*classes, 'missed'], rotation=90)
    axes.set_yticks(ticks, [*classes, 'background'])
    axes.set(xlabel='predicted', ylabel='true')
    axes.set_title(f'Counts at a score of {score_thr:g}, IoU 0.5')
    style: dict = dict(ha='center', va='center', fontsize=8 if len(classes) < 30 else 4)
    for row, column in zip(*np.nonzero(counts)):
        color = 'white' if share[row, column] > 0.6 else 'black'
        axes.text(column, row, counts[row, column], color=color, **style)
    figure.colorbar(image, shrink=0.7, label='share of the row')
    figure.savefig(path, dpi=130)
