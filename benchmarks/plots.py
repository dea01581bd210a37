"""The rows as plots."""

from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .backbones import MATRIX_PRODUCT
from .rivals import RIVALS
from .stages import STAGES
from .tables import median

# In the names of rows that ours are compared with.
THEIRS = 'authors', 'compiled', 'definition', 'ResNet', 'stock'


def draw_growth(result: dict, path: Path) -> None:
    """What the graph step costs an element, as the map grows."""
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
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)
    for (part, name), line in lines.items():
        axis = axes[0, parts.index(part)]
        pixels = sorted(line)
        axis.loglog(
            pixels,
            [line[n] for n in pixels],
            'o-' if 'channels-last' not in name else 's--',
            color='tab:green' if 'ours' in name else 'tab:gray',
            label=name,
        )
        axis.set(title=part, xlabel='pixels of the map', ylabel='ns/element')
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=4
    )
    figure.savefig(path, dpi=110)


def draw_stages(result: dict, path: Path) -> None:
    """Where the time of a whole detector's step goes: a stacked bar a row."""
    rows = [row for row in result['rows'] if row.get('stages')]
    parts = list(dict.fromkeys((row['part'], row['size']) for row in rows))
    if not parts:
        return
    shown = [[r for r in rows if (r['part'], r['size']) == part] for part in parts]
    figure = Figure(
        figsize=(9, 1 + sum(0.7 + 0.3 * len(bars) for bars in shown)),
        layout='constrained',
    )
    axes = figure.subplots(
        len(parts), 1, squeeze=False, height_ratios=[2 + len(bars) for bars in shown]
    )
    for axis, part, bars in zip(axes[:, 0], parts, shown):
        for bar in reversed(bars):
            start = 0.0
            for i, stage in enumerate(STAGES):
                length = bar['stages'].get(stage, 0) * 1e3
                axis.barh(bar['name'], length, left=start, color=f'C{i}')
                start += length
        axis.set(title=', '.join(part), xlabel='ms')
        axis.tick_params('y', labelsize=7)
    figure.legend(
        [Patch(color=f'C{i}') for i in range(len(STAGES))],
        STAGES,
        loc='outside lower center',
        ncols=5,
    )
    figure.savefig(path, dpi=110)


def draw(result: dict, path: Path) -> None:
    rows = [
        row
        for row in result['rows']
        if 'failed' not in row and row['name'] != MATRIX_PRODUCT
    ]
    parts = list(dict.fromkeys((row['part'], row['size']) for row in rows))
    bars = [sum((row['part'], row['size']) == part for row in rows) for part in parts]
    figure = Figure(
        figsize=(9, sum(0.8 + 0.22 * n for n in bars)), layout='constrained'
    )
    axes = figure.subplots(
        len(parts), 1, squeeze=False, height_ratios=[3 + n for n in bars]
    )
    for axis, part in zip(axes[:, 0], parts):
        shown = [r for r in rows if (r['part'], r['size']) == part][::-1]
        middle = [median(row) * 1e3 for row in shown]
        axis.barh(
            [row['name'] for row in shown],
            middle,
            xerr=[
                [m - min(r['seconds']) * 1e3 for m, r in zip(middle, shown)],
                [max(r['seconds']) * 1e3 - m for m, r in zip(middle, shown)],
            ],
            color=[
                'tab:gray'
                if r['name'] in RIVALS
                or any(
                    theirs in r['name']
                    for theirs in (
                        'authors',
                        'compiled',
                        'definition',
                        'ResNet',
                        'stock',
                        'MME',
                    )
                )
                else 'tab:green'
                for r in shown
            ],
        )
        axis.set(title=', '.join(part), xlabel='ms')
        axis.tick_params('y', labelsize=7)
    figure.savefig(path, dpi=110)
