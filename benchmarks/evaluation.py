"""Evaluation from predictions to AP: ours next to MMDetection's CocoMetric.

The data are generated.
"""

import contextlib
import gc
import io
import json
import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilevig_det.evaluation import FastCocoMetric

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from .interleaved import PROCESSES, show_progress

STOCK = 'stock CocoMetric'
METRICS = {STOCK: CocoMetric, 'ours': FastCocoMetric}
KINDS = {'boxes': ['bbox'], 'boxes and masks': ['bbox', 'segm']}
HEIGHT, WIDTH, CLASSES, DETECTIONS, OBJECTS = 480, 640, 80, 100, 7
DIFFERENT = 8  # images; the others repeat their detections with other scores


def ellipses(boxes: np.ndarray) -> np.ndarray:
    """Draw an ellipse in each of (N, 4) boxes: bool masks of (N, H, W)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 1)
    return np.stack(
        [
            ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
            for (cx, cy), (rx, ry) in zip(centres, halves)
        ]
    )


def make_images(masks: bool) -> list[dict]:
    """Generate the detections of some images, with objects of COCO's sizes."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(DIFFERENT):
        sides = np.exp(random.normal(4.3, 0.8, (DETECTIONS, 2)))
        centres = random.uniform(0, [WIDTH, HEIGHT], (DETECTIONS, 2))
        boxes = np.concatenate([centres - sides / 2, centres + sides / 2], 1)
        boxes = boxes.clip(0, [WIDTH, HEIGHT] * 2)
        found = dict(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.tensor(random.integers(0, CLASSES, DETECTIONS)),
        )
        if masks:
            found['masks'] = torch.from_numpy(ellipses(boxes))
        images.append(found)
    return images


def write_ground_truth(path: Path, images: list[dict], number: int) -> None:
    """Write ground truth near some of the detections: polygons in COCO's format."""
    random = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 25)[:-1]
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    annotations: list[dict] = []
    for image in range(number):
        found = images[image % DIFFERENT]
        for i in random.choice(DETECTIONS, OBJECTS, replace=False):
            box = found['bboxes'][i].numpy() + random.normal(0, 5, 4)
            start, size = box[:2], np.maximum(box[2:] - box[:2], 2)
            points = (start + size * (circle + 1) / 2).clip(0, [WIDTH, HEIGHT])
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(found['labels'][i]),
                    bbox=[*start.tolist(), *size.tolist()],
                    area=float(size.prod() * np.pi / 4),
                    iscrowd=int(random.random() < 0.01),
                    segmentation=[points.round(2).ravel().tolist()],
                )
            )
    size = dict(width=WIDTH, height=HEIGHT, file_name='')
    truth = dict(
        images=[dict(id=i, **size) for i in range(number)],
        categories=[dict(id=i, name=str(i)) for i in range(CLASSES)],
        annotations=annotations,
    )
    path.write_text(json.dumps(truth))


def measure(name: str, kinds: Sequence[str], number: int) -> tuple[float, int, dict]:
    """Evaluate ``number`` images in a new process, whose peak memory is not yet set.

    Returns:
        tuple[float, int, dict]: Seconds, bytes that the evaluation added to the peak
        memory of the process, and the metrics.
    """
    MMLogger.get_current_instance().setLevel('ERROR')
    images = make_images('segm' in kinds)
    random = np.random.default_rng(2)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        path = Path(folder, 'truth.json')
        write_ground_truth(path, images, number)
        metric = METRICS[name](ann_file=str(path), metric=list(kinds))
        metric.dataset_meta = dict(classes=[str(i) for i in range(CLASSES)])
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        for image in range(number):
            scores = torch.tensor(np.sort(random.random(DETECTIONS))[::-1].copy())
            found = dict(images[image % DIFFERENT], scores=scores.float())
            sample = dict(img_id=image, ori_shape=(HEIGHT, WIDTH), pred_instances=found)
            metric.process({}, [sample])
        figures = metric.evaluate(number)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, 1024 * peak, figures


def evaluation_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of both metrics on ``args.images`` images, without and with masks."""
    for kind, metrics in KINDS.items():
        size = f'{args.images} images x {DETECTIONS}, {kind}'
        common = dict(part='evaluation', size=size, base=STOCK, images=args.images)
        rows = [dict(common, name=name, seconds=[]) for name in METRICS]
        figures = {}
        for i in range(max(args.rounds - 4, 1)):
            for row in rows:
                show_progress(f'{size}: {row["name"]}, {i + 1}')
                with PROCESSES.Pool(1) as pool:
                    seconds, peak, figures[row['name']] = pool.apply(
                        measure, (row['name'], metrics, args.images)
                    )
                row['seconds'].append(seconds)
                row['peak_bytes'] = peak
        show_progress('')
        if figures['ours'] != figures[STOCK]:
            rows[1]['failed'] = f'other figures than {STOCK}: {figures}'
        yield from rows
