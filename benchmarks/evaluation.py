"""Evaluation of generated predictions: ours compared with MMDetection's CocoMetric."""

import contextlib
import gc
import io
import json
import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mobilevig_det.evaluation import FastCocoMetric

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from .interleaved import PROCESSES, show_progress
from .operators import draw_ellipses, some_boxes

STOCK = 'stock CocoMetric'
METRICS = {STOCK: CocoMetric, 'ours': FastCocoMetric}
KINDS = {'boxes': ['bbox'], 'boxes and masks': ['bbox', 'segm']}
HEIGHT, WIDTH, CLASSES, DETECTIONS, OBJECTS = 480, 640, 80, 100, 7
DIFFERENT = 8  # distinct images, whose detections repeat with other scores


def make_images(masks: bool) -> list[dict]:
    """Generate the detections of the distinct images, with or without masks."""
    torch.manual_seed(0)
    images = []
    for _ in range(DIFFERENT):
        found = dict(
            bboxes=some_boxes(DETECTIONS, (16, 256), HEIGHT, WIDTH),
            labels=torch.randint(CLASSES, (DETECTIONS,)),
        )
        if masks:
            drawn = draw_ellipses(found['bboxes'], HEIGHT, WIDTH)
            found['masks'] = torch.from_numpy(drawn).bool()
        images.append(found)
    return images


def write_ground_truth(path: Path, images: list[dict], number: int) -> None:
    """Write COCO annotations with polygons that lie near some of the detections."""
    random = np.random.default_rng(1)
    annotations: list[dict] = []
    for image in range(number):
        found = images[image % DIFFERENT]
        for i in random.choice(DETECTIONS, OBJECTS, replace=False):
            x1, y1, x2, y2 = found['bboxes'][i].numpy() + random.normal(0, 3, 4)
            x2, y2 = max(x1 + 2, x2), max(y1 + 2, y2)
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(found['labels'][i]),
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1) / 2,
                    iscrowd=int(random.random() < 0.01),
                    segmentation=[[x1, y, x, y1, x2, y, x, y2]],
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
    """Evaluate ``number`` images; run this in a new process to measure its peak memory.

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
    """Yield rows of both metrics for ``args.images`` images, without and with masks."""
    for kind, metrics in KINDS.items():
        size = f'{args.images} images x {DETECTIONS}, {kind}'
        common = dict(part='evaluation', size=size, base=STOCK, images=args.images)
        rows = [dict(common, name=name, seconds=[]) for name in METRICS]
        figures = {}
        for i in range(max(args.rounds - 4, 1)):
            for row in rows:
                show_progress(f'{size}: {row["name"]}, {i + 1}')
                with ProcessPoolExecutor(1, PROCESSES) as pool:
                    seconds, peak, figures[row['name']] = pool.submit(
                        measure, row['name'], metrics, args.images
                    ).result()
                row['seconds'].append(seconds)
                row['peak_bytes'] = peak
        show_progress('')
        if figures['ours'] != figures[STOCK]:
            rows[1]['failed'] = f'results differ from {STOCK}: {figures}'
        yield from rows
