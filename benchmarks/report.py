"""Write the table, the plots and the files of a benchmark."""

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

from mobilevig_det.io import atomic_write_text

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .backbones import BASELINES, MATRIX_PRODUCT
from .detectors import STAGES, TRAINING
from .paper import plot_accuracy, summarize

COCO_EPOCHS, COCO_EPOCH_IMAGES = 12, 14659 * 8
HEADER = (
    'what',
    'size',
    'name',
    'median ms',
    'min-max ms',
    'ns/element',
    'images/s',
    'params M',
    'GMACs',
    'peak MB',
    'x ceiling',
    'x base',
)
NOTES = (
    'x ceiling: time divided by the time that the same number of operations takes '
    "in a matrix product. x base: speedup over the definition, the authors' "
    'algorithm, compiled mmcv or PyTorch (in brackets the peak memory of the base '
    'divided by that of the row). Peak MB: memory of the tensors that the run '
    'creates, without weights and inputs; for the evaluation, growth of the '
    "process's peak memory."
)


def write_json(result: dict, folder: Path) -> None:
    """Write benchmark.json, from which the other files can be generated again."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / 'benchmark.json', json.dumps(result, indent=1))


def save(result: dict, folder: Path) -> None:
    """Write all files of a benchmark and print its table.

    Args:
        result (dict): ``machine``, ``batch_size`` and ``rows``.
        folder (Path): Folder for benchmark.json, benchmark.md, benchmark.csv,
            benchmark.png, growth.png and stages.png.
    """
    write_json(result, folder)
    page = markdown(result)
    atomic_write_text(folder / 'benchmark.md', page)
    with open(folder / 'benchmark.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(table(result))
    rows = [row for row in result['rows'] if 'failed' not in row]
    plot_times(rows, folder / 'benchmark.png')
    plot_growth(rows, folder / 'growth.png')
    plot_stages(rows, folder / 'stages.png')
    plot_accuracy(rows, folder / 'paper.png')
    print(page)
    print(f'Written: {folder}/benchmark.{{md,csv,png,json}}, growth.png, stages.png')


def median(row: dict) -> float:
    """Return the median of a row's times in seconds."""
    return statistics.median(row['seconds'])


def table(result: dict) -> list[dict[str, str]]:
    """Format the cells of each row, by the names in :data:`HEADER`.

    ``x ceiling`` is the row's time divided by the time of as many FLOPs in a matrix
    product. ``x base`` is the row's speedup over its ``base`` and, in brackets, the
    peak memory of the base divided by that of the row.
    """
    measured = {
        (row['part'], row['size'], row['name']): row
        for row in result['rows']
        if 'failed' not in row
    }
    return [_cells(row, measured, result['batch_size']) for row in result['rows']]


def _cells(row: dict, measured: dict, batch_size: int) -> dict[str, str]:
    part, size = row['part'], row['size']
    cells = dict.fromkeys(HEADER, '') | dict(what=part, size=size, name=row['name'])
    if 'failed' in row:
        return cells | {'median ms': f'failed: {row["failed"]}'}
    time, base = median(row), measured.get((part, size, row.get('base')))
    product = measured.get((part, size, MATRIX_PRODUCT))
    images = 1 if row is product else row.get('images', batch_size)
    cells['median ms'] = f'{time * 1e3:.2f}'
    low, high = min(row['seconds']) * 1e3, max(row['seconds']) * 1e3
    cells['min-max ms'] = f'{low:.2f}-{high:.2f}'
    if 'elements' in row:
        cells['ns/element'] = f'{time / row["elements"] * 1e9:.2f}'
    else:
        cells['images/s'] = f'{images / time:.2f}'
    if row.get('gmacs'):
        cells['params M'] = f'{row["params"] / 1e6:.2f}'
        cells['GMACs'] = f'{row["gmacs"]:.2f}'
        if product:
            ideal = median(product) * row['gmacs'] * images / product['gmacs']
            cells['x ceiling'] = f'{time / ideal:.2f}'
    if 'peak_bytes' in row:
        cells['peak MB'] = f'{row["peak_bytes"] / 1e6:.1f}'
    if base and base is not row:
        cells['x base'] = f'{median(base) / time:.2f}'
        if 'peak_bytes' in row and 'peak_bytes' in base:
            less = base['peak_bytes'] / max(row['peak_bytes'], 1)
            cells['x base'] += f' ({less:.2f})'
    return cells


def markdown(result: dict) -> str:
    """Format the machine, the table and the notes as a page of Markdown."""
    facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
    lines = [HEADER, ['---'] * len(HEADER), *(row.values() for row in table(result))]
    notes = [row['note'] for row in result['rows'] if 'note' in row]
    on_gpu = result['machine']['device'] != 'cpu'
    for row in result['rows']:
        if on_gpu and row['part'] == TRAINING and 'failed' not in row:
            hours = median(row) / row['images'] * COCO_EPOCH_IMAGES * COCO_EPOCHS / 3600
            notes.append(
                f'{row["name"]}, {row["size"]}: {COCO_EPOCHS} epochs of COCO at this '
                f'speed take {hours:.0f} h.'
            )
    rows = [f'| {" | ".join(line)} |' for line in lines]
    return '\n'.join(
        [facts, '', *summarize(result['rows']), *rows, '', NOTES, *notes, '']
    )


def _bar_charts(rows: list[dict], bar: float) -> tuple[Figure, list[tuple]]:
    """Make a figure with a chart for each part and size, and group the rows by chart.

    Args:
        rows (list[dict]): The rows to plot, at least one.
        bar (float): Inches for each row.

    Returns:
        tuple[Figure, list[tuple[Axes, list[dict]]]]: The figure; charts and their rows.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[f'{row["part"]}, {row["size"]}'].append(row)
    height = 1 + 0.8 * len(groups) + bar * len(rows)
    figure = Figure(figsize=(9, height), layout='constrained')
    ratios = [3 + len(group) for group in groups.values()]
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axis, title in zip(axes, groups):
        axis.set(title=title, xlabel='ms')
        axis.tick_params('y', labelsize=7)
        axis.invert_yaxis()  # the first row on top
    return figure, list(zip(axes, groups.values()))


def plot_times(rows: list[dict], path: Path) -> None:
    """Plot the median and range of every row; bases and baselines are gray."""
    rows = [row for row in rows if row['name'] != MATRIX_PRODUCT]
    if not rows:
        return
    figure, charts = _bar_charts(rows, bar=0.22)
    for axis, group in charts:
        for row in group:
            times = [1e3 * seconds for seconds in row['seconds']]
            middle = statistics.median(times)
            is_other = row['name'] in (*BASELINES, row.get('base'))
            axis.barh(
                row['name'],
                middle,
                xerr=[[middle - min(times)], [max(times) - middle]],
                color='tab:gray' if is_other else 'tab:green',
            )
    figure.savefig(path, dpi=110)


def plot_growth(rows: list[dict], path: Path) -> None:
    """Plot the graph step's time per element against the size of the feature map."""
    lines: dict[tuple, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row['part'].startswith('graph step,'):
            height, width = map(int, row['size'].split('x')[2:])
            cost = median(row) / row['elements'] * 1e9
            lines[row['part'], row['name']][height * width] = cost
    if not lines:
        return
    parts = list(dict.fromkeys(part for part, _ in lines))
    figure = Figure(figsize=(9, 3.5), layout='constrained')
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for (part, name), line in lines.items():
        axis = axes[parts.index(part)]
        axis.loglog(
            *zip(*sorted(line.items())),
            'o-' if 'channels-last' not in name else 's--',
            color='tab:green' if 'ours' in name else 'tab:gray',
            label=name,
        )
        axis.set(title=part, xlabel='pixels of the map', ylabel='ns/element')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    figure.savefig(path, dpi=110)


def plot_stages(rows: list[dict], path: Path) -> None:
    """Plot the stages of a detector's step as a stacked bar for each row."""
    rows = [row for row in rows if row.get('stages')]
    if not rows:
        return
    colors = {stage: f'C{i}' for i, stage in enumerate(STAGES)}
    figure, charts = _bar_charts(rows, bar=0.3)
    for axis, group in charts:
        for row in group:
            start = 0.0
            for stage, color in colors.items():
                length = row['stages'].get(stage, 0) * 1e3
                axis.barh(row['name'], length, left=start, color=color)
                start += length
    patches = [Patch(color=color) for color in colors.values()]
    figure.legend(patches, STAGES, loc='outside lower center', ncols=5)
    figure.savefig(path, dpi=110)
