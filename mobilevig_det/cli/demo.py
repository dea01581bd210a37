"""Generate a data set of shapes, train a detector on it, evaluate and draw results.

`make demo` runs this command. After an interruption, run it again to resume.
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
ZOOM = 2  # enlargement of the drawings, in which labels would not fit otherwise
SCORE_THR = 0.5
EXPECTED_AP = 0.5  # least mask AP with the default backbone
PROGRAM = [sys.executable, '-m', 'mobilevig_det']
# Lines of a command's output to show: progress and results. The logs in the work dir
# contain all of them.
SHOWN = {
    'train': re.compile(r'Epoch\((?:train|val)\)|resumed epoch'),
    'test': re.compile(r'Average Precision|Evaluate annotation|Epoch\('),
    'plot-run': re.compile(''),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    parser.add_argument(
        '--backbone',
        choices=BACKBONES,
        default=DEFAULT,
        metavar='NAME',
        help=f'Backbone to train: one of {", ".join(BACKBONES)} (default: {DEFAULT}).',
    )
    parser.add_argument(
        '--work-dir',
        help='Write the results to this folder (default: work_dirs/demo, or '
        'work_dirs/demo_BACKBONE for another backbone).',
    )
    parser.add_argument(
        '--restart',
        action='store_true',
        help='Train from the start, even if there is a run to resume.',
    )
    return parser.parse_args(argv)


def run(name: str, *args: str) -> str:
    """Run a command of this package in a subprocess and show its progress.

    Args:
        name (str): Name of the command, a key of ``SHOWN``.
        *args (str): Arguments of the command.

    Returns:
        str: Everything that the command printed.

    Raises:
        UserError: If the command fails.
    """
    print('$', ' '.join(['mobilevig_det', name, *args]), flush=True)
    lines: list[str] = []
    # Threads stop spinning soon while they wait. That is 14 % slower than torch's
    # default on an idle machine, and ten times as fast on a busy one.
    env = {'GOMP_SPINCOUNT': '1000', **os.environ, 'PYTHONUNBUFFERED': '1'}
    pipes: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen(
        [*PROGRAM, name, *args], text=True, errors='replace', env=env, **pipes
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if SHOWN[name].search(line):
                # without time stamp and logger name
                print(re.sub(r'^\S+ \S+ - \w+ - \w+ - ', '', line), end='', flush=True)
    if process.returncode:
        raise UserError(
            f'mobilevig_det {name} failed (exit code {process.returncode}). The end of '
            'its output:\n' + ''.join(lines[-25:])
        )
    return ''.join(lines)


def average_precisions(log: str) -> dict[str, float]:
    """Return the last APs in the output of ``test``, as fractions by metric name."""
    return {
        name: float(value)
        for name, value in re.findall(
            r'coco/((?:bbox|segm)_mAP(?:_50|_75)?): (-?[\d.]+)', log
        )
    }


def backbone_options(name: str) -> list[str]:
    """Return the command-line flags that set the backbone of the demo's config."""
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


def draw_pictures(predictions: Path, out_dir: Path, number: int = 24) -> None:
    """Draw ground truth (left) and predictions (right) of the first test images.

    Args:
        predictions (Path): Pickle file that ``test --out`` wrote.
        out_dir (Path): Folder to write the drawings to.
        number (int): Number of images. Defaults to 24.
    """
    import numpy as np
    from mmcv import imread, imwrite
    from mmdet.registry import DATASETS
    from mmengine.fileio import load
    from mmengine.registry import init_default_scope
    from pycocotools.mask import decode

    from ..config import load_config

    init_default_scope('mmdet')
    dataset = DATASETS.build(load_config(CONFIG).test_dataloader.dataset)
    for index, found in enumerate(load(predictions)[:number]):
        truth = dataset[index]['data_samples'].gt_instances
        found = found['pred_instances']
        keep = np.flatnonzero(np.asarray(found['scores']) > SCORE_THR)
        boxes, labels, scores = (
            np.asarray(found[name])[keep] for name in ('bboxes', 'labels', 'scores')
        )
        masks = [decode(found['masks'][i]) for i in keep]
        path = dataset.get_data_info(index)['img_path']
        known = truth.bboxes.tensor, truth.labels, None, truth.masks.to_ndarray()
        meta = dataset.metainfo
        left = _draw(imread(path), 'ground truth', meta, *known)
        right = _draw(imread(path), 'predictions', meta, boxes, labels, scores, masks)
        out = out_dir / Path(path).with_suffix('.png').name
        imwrite(np.hstack([left, right]), str(out))


def _draw(image, caption, metainfo, boxes, labels, scores, masks):
    """Draw objects on an enlarged image, with a caption above it."""
    import cv2
    import numpy as np

    from ..inference.visualization import draw_detections

    picture = draw_detections(
        image.repeat(ZOOM, 0).repeat(ZOOM, 1),
        np.asarray(boxes) * ZOOM,
        labels,
        scores,
        metainfo['classes'],
        [mask.repeat(ZOOM, 0).repeat(ZOOM, 1) for mask in masks],
        metainfo.get('palette'),
    )
    head = np.full((20, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(head, caption, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0))
    return np.vstack([head, picture])


def join_pictures(pictures: Path, curves: Path, out: Path) -> None:
    """Write an image that combines four drawings with the training curves below them.

    Args:
        pictures (Path): Folder of the drawings.
        curves (Path): Image file of the curves.
        out (Path): Image file to write.
    """
    import numpy as np
    from mmcv import imread, imrescale, imwrite

    # The first three are test cases, such as a crowd or an image without objects.
    chosen = [imread(str(path)) for path in sorted(pictures.iterdir())[3:7]]
    top = np.vstack([np.hstack(chosen[:2]), np.hstack(chosen[2:])])
    bottom = imread(str(curves))
    bottom = imrescale(bottom, top.shape[1] / bottom.shape[1], interpolation='area')
    imwrite(np.vstack([top, bottom]), str(out))


@command(parse_args, 'the same command resumes from the last epoch')
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..config import load_config
    from ..datasets.shapes import make_shapes

    start = time.time()

    def step(name: str) -> None:
        seconds = time.time() - start
        print(f'\n=== {name} ({seconds:.0f} s since the start) ===', flush=True)

    other = [] if args.backbone == DEFAULT else [args.backbone]
    work_dir = Path(args.work_dir or '_'.join(['work_dirs/demo', *other]))
    options = backbone_options(args.backbone)
    last = work_dir / f'epoch_{load_config(CONFIG).max_epochs}.pth'
    # MMEngine writes the name of a checkpoint to this file once it is complete.
    latest = work_dir / 'last_checkpoint'
    if args.restart:
        latest.unlink(missing_ok=True)

    step('1/4 Data')
    root = make_shapes(os.environ.get('SHAPES_ROOT', 'data/shapes'))
    print(f'The images and their annotations are in {root}.')

    step('2/4 Training, which takes some minutes')
    if latest.exists() and latest.read_text().strip().endswith(last.name):
        print(f'{last} exists already (--restart trains again).')
    else:
        resume = [] if args.restart else ['--resume']
        run('train', CONFIG, '--work-dir', str(work_dir), *resume, *options)

    step('3/4 Evaluation on held-out images')
    predictions = work_dir / 'predictions.pkl'
    where = ['--work-dir', str(work_dir / 'test'), '--out', str(predictions)]
    log = run('test', CONFIG, str(last), *where, *options)

    step('4/4 Pictures and curves')
    pictures, curves = work_dir / 'pictures', work_dir / 'curves.png'
    draw_pictures(predictions, pictures)
    run('plot-run', str(work_dir))
    join_pictures(pictures, curves, work_dir / 'demo.jpg')

    ap = average_precisions(log)
    print(f"""
Done in {(time.time() - start) / 60:.1f} minutes.
  box AP       {ap['bbox_mAP']:.3f}   (AP50 {ap['bbox_mAP_50']:.3f})
  mask AP      {ap['segm_mAP']:.3f}   (AP50 {ap['segm_mAP_50']:.3f})
  pictures     {pictures} (ground truth left, predictions right)
  curves       {curves}
  overview     {work_dir / 'demo.jpg'}
  checkpoint   {last}""")
    expected = 0.001 if other else EXPECTED_AP
    if ap['segm_mAP'] < expected:
        raise UserError(
            f'The mask AP should be at least {expected}: '
            'something is wrong with this installation.'
        )
