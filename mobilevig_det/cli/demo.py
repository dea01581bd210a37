"""Generate the shapes data, train on it, evaluate, draw: `make demo`.

Run again after an interruption, it goes on where it was.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.backbones import (
    AdaptViG,
    GreedyViG,
    MobileViG,
    MobileViGv2,
    RapidNet,
)
from mobilevig_det.cli.common import command
from mobilevig_det.config import load_config
from mobilevig_det.datasets.shapes import make_shapes
from mobilevig_det.errors import UserError

import numpy as np
import torch
from cv2 import IMWRITE_JPEG_QUALITY
from mmcv import imread, imrescale, imresize, imwrite
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api

CONFIG = 'mobilevig_ti_fpn_shapes'
BACKBONES = {
    f'{cls.__name__.lower()}_{arch}': (cls, arch)
    for cls in (MobileViG, MobileViGv2, GreedyViG, RapidNet, AdaptViG)
    for arch in cls.arch_settings
}
DEFAULT = 'mobilevig_ti'
EXPECTED_AP = 0.5  # of the default; of the others any
NUM_PICTURES = 24
ZOOM = 3
# What is shown of the tools' output: progress and results. All of it is in
# the logs of the work dir.
SHOWN = {
    'train.py': re.compile(r'Epoch\((?:train|val)\)|resumed epoch'),
    'test.py': re.compile(r'Average Precision|Evaluate annotation|Epoch\('),
    'plot_run.py': re.compile(''),
}


def step(name: str, start: float) -> None:
    print(f'\n=== {name} ({time.time() - start:.0f} s since the start) ===', flush=True)


def run(tool: str, *args: str) -> str:
    """Run one of our tools, show its progress and return all it printed."""
    command_line = [sys.executable, '-m', 'mobilevig_det', Path(tool).stem, *args]
    print('$', ' '.join(['python', f'tools/{tool}', *args]), flush=True)
    lines: list[str] = []
    # Threads that soon stop spinning when they wait: 14 % slower than torch's
    # own way on a quiet machine, ten times as fast on a busy one.
    env = {'GOMP_SPINCOUNT': '1000', **os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen(
        command_line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        env=env,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if SHOWN[tool].search(line):
                # without the time stamp and the name of the logger
                print(re.sub(r'^\S+ \S+ - \w+ - \w+ - ', '', line), end='', flush=True)
    if process.returncode:
        raise UserError(
            f'tools/{tool} failed (exit code '
            f'{process.returncode}). The end of what it said:\n' + ''.join(lines[-25:])
        )
    return ''.join(lines)


def average_precisions(log: str) -> dict:
    """The APs that tools/test.py printed last, by the name of the metric."""
    return {
        name: float(value)
        for name, value in re.findall(
            r'coco/((?:bbox|segm)_mAP(?:_50|_75)?): (-?[\d.]+)', log
        )
    }


def enlarged(boxes, labels, masks, **others) -> InstanceData:
    masks = np.asarray(masks, np.uint8)
    return InstanceData(
        bboxes=torch.as_tensor(boxes) * ZOOM,
        labels=torch.as_tensor(labels),
        masks=masks.repeat(ZOOM, 1).repeat(ZOOM, 2).astype(bool),
        **others,
    )


def draw_pictures(predictions: Path, out_dir: Path) -> None:
    """Draw the truth and beside it the predictions of the first images, with
    MMDetection's visualiser.

    Enlarged, because the images are too small for its labels.
    """
    init_default_scope('mmdet')
    dataset = DATASETS.build(load_config(CONFIG).test_dataloader.dataset)
    visualizer = DetLocalVisualizer(name='demo', alpha=0.6)
    visualizer.dataset_meta = dataset.metainfo
    for index, found in enumerate(load(predictions)[:NUM_PICTURES]):
        truth = dataset[index]['data_samples'].gt_instances
        found = found['pred_instances']
        image_path = dataset.get_data_info(index)['img_path']
        image = imread(image_path)
        size = image.shape[:2]
        sample = DetDataSample(
            gt_instances=enlarged(
                truth.bboxes.tensor, truth.labels, truth.masks.to_ndarray()
            ),
            pred_instances=enlarged(
                found['bboxes'],
                found['labels'],
                mask_api.decode(found['masks']).transpose(2, 0, 1)
                if found['masks']
                else np.zeros((0, *size)),
                scores=torch.as_tensor(found['scores']),
            ),
        )
        path = out_dir / Path(image_path).with_suffix('.png').name
        visualizer.add_datasample(
            path.stem,
            image[..., ::-1].repeat(ZOOM, 0).repeat(ZOOM, 1),
            sample,
            pred_score_thr=0.5,
            out_file=str(path),
        )


def put_together(pictures: Path, curves: Path, out: Path) -> None:
    """Some of the pictures, and the curves under them."""
    # The first three are special (one has a crowd, one shows nothing).
    chosen = [imread(str(path)) for path in sorted(pictures.iterdir())[3:7]]
    top = np.vstack([np.hstack(chosen[:2]), np.hstack(chosen[2:])])
    top = imrescale(top, 0.625)
    bottom = imread(str(curves))
    width = top.shape[1]
    height = round(bottom.shape[0] * width / bottom.shape[1])
    bottom = imresize(bottom, (width, height), interpolation='area')
    imwrite(np.vstack([top, bottom]), str(out), [IMWRITE_JPEG_QUALITY, 85])


def backbone_options(name: str) -> list[str]:
    """Flags of our tools that put another backbone into the config."""
    if name == DEFAULT:
        return []
    cls, arch = BACKBONES[name]
    channels = ','.join(map(str, cls.out_channels(arch)))
    return [
        '--cfg-options',
        f'model.backbone.type={cls.__name__}',
        f'model.backbone.arch={arch}',
        f'model.neck.in_channels=[{channels}]',
    ]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Generate the shapes data, train on it, evaluate, draw.'
    )
    parser.add_argument(
        '--backbone',
        choices=BACKBONES,
        default=DEFAULT,
        metavar='NAME',
        help=f'one of {", ".join(BACKBONES)} (default: {DEFAULT})',
    )
    parser.add_argument(
        '--work-dir',
        help='folder for the results (default: work_dirs/demo, and behind it the '
        'backbone if it is another one)',
    )
    parser.add_argument(
        '--restart',
        action='store_true',
        help='train anew, though there is a run to go on with',
    )
    return parser.parse_args()


def main_steps(args: argparse.Namespace) -> None:
    start = time.time()
    other = [] if args.backbone == DEFAULT else [args.backbone]
    work_dir = Path(args.work_dir or '_'.join(['work_dirs/demo', *other]))
    options = backbone_options(args.backbone)
    last = work_dir / f'epoch_{load_config(CONFIG).max_epochs}.pth'
    # MMEngine names a checkpoint in there when it is whole.
    latest = work_dir / 'last_checkpoint'
    if args.restart:
        latest.unlink(missing_ok=True)

    step('1/4 Data', start)
    root = make_shapes(os.environ.get('SHAPES_ROOT', 'data/shapes'))
    print(f'The images and their annotations are in {root}.')

    step('2/4 Training, for some minutes', start)
    if latest.exists() and latest.read_text().strip().endswith(last.name):
        print(f'{last} is there already (--restart trains anew).')
    else:
        go_on = [] if args.restart else ['--resume']
        run('train.py', CONFIG, '--work-dir', str(work_dir), *go_on, *options)

    step('3/4 Evaluation on held-out images', start)
    predictions = work_dir / 'predictions.pkl'
    log = run(
        'test.py',
        CONFIG,
        str(last),
        '--work-dir',
        str(work_dir / 'test'),
        '--out',
        str(predictions),
        *options,
    )

    step('4/4 Pictures and curves', start)
    draw_pictures(predictions, work_dir / 'pictures')
    run('plot_run.py', str(work_dir))
    put_together(work_dir / 'pictures', work_dir / 'curves.png', work_dir / 'demo.jpg')

    ap = average_precisions(log)
    print(f"""
Done in {(time.time() - start) / 60:.1f} minutes.
  box AP       {ap['bbox_mAP']:.3f}   (AP50 {ap['bbox_mAP_50']:.3f})
  mask AP      {ap['segm_mAP']:.3f}   (AP50 {ap['segm_mAP_50']:.3f})
  pictures     {work_dir / 'pictures'} (truth left, predictions right)
  curves       {work_dir / 'curves.png'}
  in one       {work_dir / 'demo.jpg'}
  checkpoint   {last}""")
    expected = 0.001 if other else EXPECTED_AP
    if ap['segm_mAP'] < expected:
        raise UserError(
            f'The mask AP should be at least {expected}: '
            'something is wrong with this installation.'
        )


@command
def main() -> int | None:
    args = parse_args()
    try:
        main_steps(args)
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on from the last epoch.')
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
