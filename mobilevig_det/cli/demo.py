"""Generate the shapes data, train on it, evaluate, draw: `make demo`.

Run it again to resume after an interruption.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from ..errors import UserError
from .arguments import ARCHS, make_parser
from .command import command

CONFIG = 'mobilevig_ti_fpn_shapes'
BACKBONES = {
    f'{name.lower()}_{arch}': (name, arch)
    for name, archs in ARCHS.items()
    for arch in archs
}
DEFAULT = 'mobilevig_ti'
EXPECTED_AP = 0.5  # of the default backbone
PROGRAM = [sys.executable, '-m', 'mobilevig_det']
# Lines of a command's output that are shown: progress and results. The logs in the work
# dir have all of them.
SHOWN = {
    'train': re.compile(r'Epoch\((?:train|val)\)|resumed epoch'),
    'test': re.compile(r'Average Precision|Evaluate annotation|Epoch\('),
    'plot-run': re.compile(''),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser('Generate the shapes data, train on it, evaluate, draw.')
    parser.add_argument(
        '--backbone',
        choices=BACKBONES,
        default=DEFAULT,
        metavar='NAME',
        help=f'one of {", ".join(BACKBONES)} (default: {DEFAULT})',
    )
    parser.add_argument(
        '--work-dir',
        help='folder for the results (default: work_dirs/demo, or '
        'work_dirs/demo_BACKBONE for another backbone)',
    )
    parser.add_argument(
        '--restart',
        action='store_true',
        help='train from the start, although there is a run to resume',
    )
    return parser.parse_args(argv)


def run(name: str, *args: str) -> str:
    """Run one of our commands, show its progress and return all that it printed.

    Raises:
        UserError: If the command fails.
    """
    print('$', ' '.join(['mobilevig_det', name, *args]), flush=True)
    lines: list[str] = []
    # Threads that soon stop spinning while they wait: 14 % slower than torch's
    # default on an idle machine, ten times as fast on a busy one.
    env = {'GOMP_SPINCOUNT': '1000', **os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen(
        [*PROGRAM, name, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        env=env,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if SHOWN[name].search(line):
                # without the time stamp and the name of the logger
                print(re.sub(r'^\S+ \S+ - \w+ - \w+ - ', '', line), end='', flush=True)
    if process.returncode:
        raise UserError(
            f'mobilevig_det {name} failed (exit code {process.returncode}). The end of '
            'its output:\n' + ''.join(lines[-25:])
        )
    return ''.join(lines)


def average_precisions(log: str) -> dict[str, float]:
    """Return the APs that ``test`` printed last, by the name of the metric."""
    return {
        name: float(value)
        for name, value in re.findall(
            r'coco/((?:bbox|segm)_mAP(?:_50|_75)?): (-?[\d.]+)', log
        )
    }


def backbone_options(name: str) -> list[str]:
    """Return the flags of our commands that put another backbone into the config."""
    from .. import backbones

    if name == DEFAULT:
        return []
    cls, arch = BACKBONES[name]
    channels = ','.join(map(str, getattr(backbones, cls).out_channels(arch)))
    return [
        '--cfg-options',
        f'model.backbone.type={cls}',
        f'model.backbone.arch={arch}',
        f'model.neck.in_channels=[{channels}]',
    ]


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    try:
        _run_steps(args)
    except KeyboardInterrupt:
        print('\nInterrupted. The same command resumes from the last epoch.')
        sys.exit(130)


def _run_steps(args: argparse.Namespace) -> None:
    from ..config import load_config
    from ..datasets.shapes import make_shapes
    from .demo_pictures import draw_pictures, join_pictures

    start = time.time()

    def step(name: str) -> None:
        seconds = time.time() - start
        print(f'\n=== {name} ({seconds:.0f} s since the start) ===', flush=True)

    other = [] if args.backbone == DEFAULT else [args.backbone]
    work_dir = Path(args.work_dir or '_'.join(['work_dirs/demo', *other]))
    options = backbone_options(args.backbone)
    last = work_dir / f'epoch_{load_config(CONFIG).max_epochs}.pth'
    # MMEngine writes the name of a checkpoint into it once that is complete.
    latest = work_dir / 'last_checkpoint'
    if args.restart:
        latest.unlink(missing_ok=True)

    step('1/4 Data')
    root = make_shapes(os.environ.get('SHAPES_ROOT', 'data/shapes'))
    print(f'The images and their annotations are in {root}.')

    step('2/4 Training, for some minutes')
    if latest.exists() and latest.read_text().strip().endswith(last.name):
        print(f'{last} is there already (--restart trains again).')
    else:
        resume = [] if args.restart else ['--resume']
        run('train', CONFIG, '--work-dir', str(work_dir), *resume, *options)

    step('3/4 Evaluation on held-out images')
    predictions = work_dir / 'predictions.pkl'
    log = run(
        'test',
        CONFIG,
        str(last),
        '--work-dir',
        str(work_dir / 'test'),
        '--out',
        str(predictions),
        *options,
    )

    step('4/4 Pictures and curves')
    draw_pictures(CONFIG, predictions, work_dir / 'pictures')
    run('plot-run', str(work_dir))
    join_pictures(work_dir / 'pictures', work_dir / 'curves.png', work_dir / 'demo.jpg')

    ap = average_precisions(log)
    print(f"""
Done in {(time.time() - start) / 60:.1f} minutes.
  box AP       {ap['bbox_mAP']:.3f}   (AP50 {ap['bbox_mAP_50']:.3f})
  mask AP      {ap['segm_mAP']:.3f}   (AP50 {ap['segm_mAP_50']:.3f})
  pictures     {work_dir / 'pictures'} (ground truth left, predictions right)
  curves       {work_dir / 'curves.png'}
  in one       {work_dir / 'demo.jpg'}
  checkpoint   {last}""")
    expected = 0.001 if other else EXPECTED_AP
    if ap['segm_mAP'] < expected:
        raise UserError(
            f'The mask AP should be at least {expected}: '
            'something is wrong with this installation.'
        )
