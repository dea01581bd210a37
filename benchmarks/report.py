"""The table, the plots and the files of a benchmark."""

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
    'x ceiling: time over what the rate of the matrix product allows. '
    "x base: times faster than the definition, the authors' algorithm, "
    "compiled mmcv or PyTorch (in brackets its peak memory over this one's). "
    'Peak: tensors made by the run, without weights and input; of the '
    'evaluation all that the process took more than before.'
)


def write_json(result: dict, folder: Path) -> None:
    """Write benchmark.json, from which the other files can be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / 'benchmark.json', json.dumps(result, indent=1))


def save(result: dict, folder: Path) -> None:
    """Write all files of a benchmark and print its table.

    Args:
        result (dict): ``machine``, ``batch_size`` and ``rows``.
        folder (Path): Gets benchmark.json, .md, .csv and .png, growth.png, stages.png.
    """
    write_json(result, folder)
    page = markdown(result)
    atomic_write_text(folder / 'benchmark.md', page)
    with open(folder / 'benchmark.csv', 'w', newline='') as file:
        csv.writer(file).writerows([HEADER, *table(result)])
    plot_times(result, folder / 'benchmark.png')
    plot_growth(result, folder / 'growth.png')
    plot_stages(result, folder / 'stages.png')
    print(page)
    print(f'Written: {folder}/benchmark.{{md,csv,png,json}}, growth.png, stages.png')


def median(row: dict) -> float:
    """Return the median of a row's times in seconds."""
    return statistics.median(row['seconds'])


def table(result: dict) -> list[tuple[str, ...]]:
    """Format a line of cells for each row.

    ``x ceiling`` is the time over what the machine's rate at a matrix product allows
    for the row's FLOPs. ``x base`` is how many times faster the row is than its
    ``base``, and in brackets the base's peak memory over the row's.
    """
    measured = {
        (row['part'], row['size'], row['name']): row
        for row in result['rows']
        if 'failed' not in row
    }
    return [_table_line(row, measured, result['batch_size']) for row in result['rows']]


def _table_line(row: dict, measured: dict, batch_size: int) -> tuple[str, ...]:
    start = (row['part'], row['size'], row['name'])
    if 'failed' in row:
        return (*start, f'failed: {row["failed"]}', *[''] * (len(HEADER) - 4))
    time = median(row)
    batch = row.get('images', batch_size)
    product = measured.get((*start[:2], MATRIX_PRODUCT))
    ceiling = gmacs = params = per_element = speed = ''
    if row.get('gmacs'):
        gmacs, params = f'{row["gmacs"]:.2f}', f'{row["params"] / 1e6:.2f}'
        if product is row:
            batch = 1
        if product:
            ideal = median(product) * row['gmacs'] * batch / product['gmacs']
            ceiling = f'{time / ideal:.2f}'
    if 'elements' in row:
        per_element = f'{time / row["elements"] * 1e9:.2f}'
    else:
        speed = f'{batch / time:.2f}'
    return (
        *start,
        f'{time * 1e3:.2f}',
        f'{min(row["seconds"]) * 1e3:.2f}-{max(row["seconds"]) * 1e3:.2f}',
        per_element,
        speed,
        params,
        gmacs,
        f'{row["peak_bytes"] / 1e6:.1f}' if 'peak_bytes' in row else '',
        ceiling,
        _ratio(row, measured.get((*start[:2], row.get('base')))),
    )


def _ratio(row: dict, base: dict | None) -> str:
    if base is None or base is row:
        return ''
    ratio = f'{median(base) / median(row):.2f}'
    if 'peak_bytes' in row and 'peak_bytes' in base:
        ratio += f' ({base["peak_bytes"] / max(row["peak_bytes"], 1):.2f})'
    return ratio


def markdown(result: dict) -> str:
    """Format the machine, the table and the notes as a page of Markdown."""
    facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
    lines = [HEADER, ('---',) * len(HEADER), *table(result)]
    notes = []
    for row in result['rows']:
        measured_on_gpu = result['machine']['device'] != 'cpu' and 'failed' not in row
        if row['part'] == TRAINING and measured_on_gpu:
            hours = median(row) / row['images'] * COCO_EPOCH_IMAGES * COCO_EPOCHS / 3600
            notes.append(
                f'{row["name"]}, {row["size"]}: {COCO_EPOCHS} epochs of COCO at this '
                f'speed take {hours:.0f} h.'
            )
        if 'note' in row:
            notes.append(row['note'])
        if 'pipe_bytes' in row:
            megabytes = row['pipe_bytes'] / 1e6
            notes.append(
                f'{row["name"]}: {megabytes:.2f} MB an image through the pipe.'
            )
    rows = [f'| {" | ".join(line)} |' for line in lines]
    return '\n'.join([facts, '', *rows, '', NOTES, *notes, ''])


def _panels(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """Group rows by part and size: titles and rows of the panels of a plot."""
    panels: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        panels[f'{row["part"]}, {row["size"]}'].append(row)
    return list(panels.items())


def _bar_charts(panels: list[tuple[str, list[dict]]], bar: float) -> tuple:
    """Make a figure with a chart for each panel, ``bar`` inches high for each row."""
    figure = Figure(
        figsize=(9, 1 + sum(0.8 + bar * len(rows) for _, rows in panels)),
        layout='constrained',
    )
    ratios = [3 + len(rows) for _, rows in panels]
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axis, (title, _) in zip(axes, panels):
        axis.set(title=title, xlabel='ms')
        axis.tick_params('y', labelsize=7)
    return figure, axes


def plot_times(result: dict, path: Path) -> None:
    """Plot the median of every row, with the range; bases and baselines are gray."""
    panels = _panels(
        [
            row
            for row in result['rows']
            if 'failed' not in row and row['name'] != MATRIX_PRODUCT
        ]
    )
    figure, axes = _bar_charts(panels, bar=0.22)
    for axis, (_, rows) in zip(axes, panels):
        for row in reversed(rows):
            middle = median(row) * 1e3
            low, high = min(row['seconds']) * 1e3, max(row['seconds']) * 1e3
            is_other = row['name'] in (*BASELINES, row.get('base'))
            axis.barh(
                row['name'],
                middle,
                xerr=[[middle - low], [high - middle]],
                color='tab:gray' if is_other else 'tab:green',
            )
    figure.savefig(path, dpi=110)


def plot_growth(result: dict, path: Path) -> None:
    """Plot the graph step's time per element over the size of the feature map."""
    lines: dict[tuple, dict[int, float]] = defaultdict(dict)
    for row in result['rows']:
        if row['part'].startswith('graph step,') and 'failed' not in row:
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
        pixels = sorted(line)
        axis.loglog(
            pixels,
            [line[n] for n in pixels],
            'o-' if 'channels-last' not in name else 's--',
            color='tab:green' if 'ours' in name else 'tab:gray',
            label=name,
        )
        axis.set(title=part, xlabel='pixels of the map', ylabel='ns/element')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    figure.savefig(path, dpi=110)


def plot_stages(result: dict, path: Path) -> None:
    """Plot the stages of a detector's step as a stacked bar for each row."""
    panels = _panels([row for row in result['rows'] if row.get('stages')])
    if not panels:
        return
    colors = {stage: f'C{i}' for i, stage in enumerate(STAGES)}
    figure, axes = _bar_charts(panels, bar=0.3)
    for axis, (_, rows) in zip(axes, panels):
        for row in reversed(rows):
            start = 0.0
            for stage, color in colors.items():
                length = row['stages'].get(stage, 0) * 1e3
                axis.barh(row['name'], length, left=start, color=color)
                start += length
    patches = [Patch(color=color) for color in colors.values()]
    figure.legend(patches, STAGES, loc='outside lower center', ncols=5)
    figure.savefig(path, dpi=110)
