"""Plot the loss, learning rate and AP of training runs, and print a table of the AP.

Runs may be unfinished. The authors' published curves are shown in the background.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .arguments import make_parser
from .command import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.run_log import Run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'work_dirs', nargs='+', metavar='WORK_DIR', help='Work dir of a training run.'
    )
    parser.add_argument(
        '--published',
        choices=['auto', 'm', 'b', 'none'],
        default='auto',
        help="Which of the authors' published COCO runs to show for comparison; auto "
        'chooses by the config of the run, and none if it is not on COCO (default: '
        '%(default)s).',
    )
    parser.add_argument(
        '--out', help='Image file to write (default: WORK_DIR/curves.png).'
    )
    return parser.parse_args(argv)


def percent(row: dict | None, names: Sequence[str]) -> str:
    """Format APs in percent, with a dash for each one that is missing.

    Args:
        row (dict | None): An evaluation, with metrics as fractions.
        names (Sequence[str]): Metrics to format.

    Returns:
        str: Columns of six characters.
    """
    values = [-1 if row is None else row.get(name, -1) for name in names]
    return ' '.join('     -' if v < 0 else f'{100 * v:6.1f}' for v in values)


def table(runs: list['Run'], published: list['Run']) -> str:
    """Format the evaluations of runs next to published ones of the same epoch.

    Args:
        runs (list[Run]): Runs to show.
        published (list[Run]): Published runs to compare them with.

    Returns:
        str: The table, followed by the best results of the published runs.
    """
    from ..evaluation.run_log import METRICS

    head = '   box   AP50   AP75   mask   AP50   AP75'
    head += ''.join(f'  | {other.name + ", box and mask":>24}' for other in published)
    lines = []
    for run in runs:
        last = run.train[-1]
        unit = 'epoch' if run.by_epoch else 'iteration'
        text = f'{run.name}: {unit} {last["at"]:.2f}, loss {last["loss"]:.4f}'
        for other in published:
            # The nearest row, as the published curve has one row every 500 iterations.
            near = min(other.train, key=lambda r: abs(r['at'] - last['at']))
            text += f' ({other.name} there: {near["loss"]:.4f})'
        lines.append(text)
        lines.append(f'{unit:>10} {head}' if run.val else '  no evaluation yet')
        for row in run.val:
            line = f'{row["at"]:10g} {percent(row, METRICS)}'
            for other in published:
                before = [r for r in other.val if r['at'] <= row['at']]
                text = percent(before[-1] if before else None, METRICS[::3])
                line += f'  | {text:>24}'
            lines.append(line)
    for other in published:
        best = other.best()
        assert best is not None  # all published runs have evaluations
        lines.append(f'{other.name}, best (epoch {best["at"]:g} of 12):')
        lines.append(f'{"":>10} {percent(best, METRICS)}')
    return '\n'.join(lines)


def draw(runs: list['Run'], published: list['Run']) -> 'Figure':
    """Plot loss, learning rate and AP side by side.

    Args:
        runs (list[Run]): Runs to plot.
        published (list[Run]): Published runs, plotted in gray behind them.

    Returns:
        Figure: The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout='constrained')
    loss, rate, ap = figure.subplots(1, 3)
    greys = ('0.6', '0.8')
    styles = [dict(color=c, lw=1, zorder=1) for c in greys[: len(published)]]
    styles += [dict(color=f'C{i}', zorder=2) for i in range(len(runs))]
    end = max(run.train[-1]['at'] for run in runs)
    for run, style in zip(published + runs, styles):
        at = [row['at'] for row in run.train]
        loss.plot(at, [row['loss'] for row in run.train], label=run.name, **style)
        rate.plot(at, [row.get('lr') for row in run.train], **style)
        for name, line in (('bbox_mAP', '--'), ('segm_mAP', '-')):
            rows = [row for row in run.val if row.get(name, -1) >= 0]
            ap.plot(
                [row['at'] for row in rows],
                [100 * row[name] for row in rows],
                line,
                marker='.',
                **style,
            )
    top = sorted(row['loss'] for run in runs for row in run.train)
    loss.set_ylim(0, 1.1 * top[int(0.99 * (len(top) - 1))])
    unit = 'epoch' if runs[0].by_epoch else 'iteration'
    for axes, title in (
        (loss, 'loss'),
        (rate, 'learning rate'),
        (ap, 'AP in %: mask (solid), box (dashed)'),
    ):
        axes.set(title=title, xlabel=unit)
        axes.grid(alpha=0.3)
        # Loss and learning rate up to the last step of the runs, AP up to the end.
        axes.set_xlim(0, 1.02 * (12 if axes is ap and published else end))
    ap.set_ylim(bottom=0)
    loss.legend(fontsize='small')
    return figure


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..evaluation.run_log import comparable_arch, published_run, read_run

    runs = [read_run(path) for path in args.work_dirs]
    if len({run.by_epoch for run in runs}) > 1:
        raise UserError(
            'Some of these runs count epochs, others iterations: plot them separately.'
        )
    archs = {args.published} - {'none'}
    if args.published == 'auto':
        archs = {arch for arch in map(comparable_arch, args.work_dirs) if arch}
    if not runs[0].by_epoch:
        archs = set()  # they count epochs, which don't fit an axis of iterations
    published = [published_run(arch) for arch in sorted(archs, reverse=True)]
    print(table(runs, published))
    out = Path(args.out or Path(args.work_dirs[0]) / 'curves.png')
    try:
        draw(runs, published).savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f'Cannot write the image {out}: {error}') from error
    print(f'Curves: {out}')
