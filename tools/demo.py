#!/usr/bin/env python
"""Generate the shapes data, train on it, evaluate, draw: `make demo`.

Run again after an interruption, it goes on where it was.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Optional

import cv2
import numpy as np

from mobilevig_det.cli import command, load_config
from mobilevig_det.errors import UserError
from mobilevig_det.shapes import make_shapes

TOOLS = Path(__file__).resolve().parent
CONFIG = 'mobilevig_ti_fpn_shapes'
EXPECTED_AP = 0.5
# What is shown of the tools' output: progress and results. All of it is in
# the logs of the work dir.
SHOWN = re.compile(r'Epoch\((?:train|val|test)\)|Average Precision|Evaluating '
                   r'|esum|WARNING')


def step(name: str, start: float) -> None:
    print(f'\n=== {name} ({time.time() - start:.0f} s since the start) ===',
          flush=True)


def run(tool: str, *args: str) -> str:
    """Run one of our tools, show its progress and return all it printed."""
    command_line = [sys.executable, str(TOOLS / tool), *args]
    print('$', ' '.join(['python', f'tools/{tool}', *args]), flush=True)
    lines: List[str] = []
    with subprocess.Popen(
            command_line,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace') as process:
        for line in process.stdout:
            lines.append(line)
            if SHOWN.search(line) or tool == 'plot_run.py':
                # without the time stamp and the name of the logger
                print(re.sub(r'^\S+ \S+ - \w+ - \w+ - ', '', line), end='',
                      flush=True)
    if process.returncode:
        raise UserError(f'tools/{tool} failed (exit code '
                        f'{process.returncode}). The end of what it said:\n' +
                        ''.join(lines[-25:]))
    return ''.join(lines)


def average_precisions(log: str) -> dict:
    """The APs that tools/test.py printed last, by the name of the metric."""
    return {
        name: float(value)
        for name, value in re.findall(
            r'coco/((?:bbox|segm)_mAP(?:_50|_75)?): (-?[\d.]+)', log)
    }


def contact_sheet(folder: Path, out: Path, rows: int = 3,
                  columns: int = 2) -> None:
    """Put the first pictures of a folder, all of one size, into one."""
    paths = sorted(folder.glob('*.jpg'))
    # The first three are special (a crowd, nothing at all): leave them.
    images = [cv2.imread(str(path)) for path in paths[3:3 + rows * columns]]
    images = [
        cv2.copyMakeBorder(image, 3, 3, 3, 3, cv2.BORDER_CONSTANT,
                           value=(255, 255, 255)) for image in images
    ]
    cv2.imwrite(
        str(out),
        np.vstack([
            np.hstack(images[i:i + columns])
            for i in range(0, len(images), columns)
        ]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Generate the shapes data, train on it, evaluate, draw.')
    parser.add_argument(
        '--work-dir', default='work_dirs/demo', help='folder for the results')
    parser.add_argument(
        '--restart',
        action='store_true',
        help='train anew, though there is a run to go on with')
    return parser.parse_args()


def main_steps(args: argparse.Namespace) -> None:
    start = time.time()
    work_dir = Path(args.work_dir)
    last = work_dir / f'epoch_{load_config(CONFIG).max_epochs}.pth'
    if args.restart and work_dir.exists():
        shutil.rmtree(work_dir)

    step('1/4 Data', start)
    root = make_shapes(os.environ.get('SHAPES_ROOT', 'data/shapes'))
    print(f'The images and their annotations are in {root}.')

    step('2/4 Training, for some minutes', start)
    if last.exists():
        print(f'{last} is there already (--restart trains anew).')
    else:
        run('train.py', CONFIG, '--work-dir', str(work_dir), '--resume')

    step('3/4 Evaluation on held-out images', start)
    test_dir = work_dir / 'test'
    shutil.rmtree(test_dir, ignore_errors=True)
    log = run('test.py', CONFIG, str(last), '--work-dir', str(test_dir),
              '--show-dir', 'pictures')
    drawn = next(test_dir.glob('*/pictures'))
    pictures = work_dir / 'pictures'
    shutil.rmtree(pictures, ignore_errors=True)
    shutil.move(str(drawn), str(pictures))
    contact_sheet(pictures, work_dir / 'pictures.jpg')

    step('4/4 Curves', start)
    run('plot_run.py', str(work_dir))

    ap = average_precisions(log)
    print(f"""
Done in {(time.time() - start) / 60:.1f} minutes.
  box AP       {ap['bbox_mAP']:.3f}   (AP50 {ap['bbox_mAP_50']:.3f})
  mask AP      {ap['segm_mAP']:.3f}   (AP50 {ap['segm_mAP_50']:.3f})
  pictures     {work_dir / 'pictures'}/ (truth on the left, predictions on the
               right), some of them together in {work_dir / 'pictures.jpg'}
  curves       {work_dir / 'curves.png'}
  checkpoint   {last}""")
    if ap['segm_mAP'] < EXPECTED_AP:
        raise UserError(f'The mask AP should be at least {EXPECTED_AP}: '
                        'something is wrong with this installation.')


@command
def main() -> Optional[int]:
    args = parse_args()
    try:
        main_steps(args)
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on from the last epoch.')
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
