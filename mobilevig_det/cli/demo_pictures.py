"""Pictures of the demo's results."""

from pathlib import Path

import cv2
import numpy as np
from mmcv import imread, imresize, imwrite
from mmdet.registry import DATASETS
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_api

from ..config import load_config
from ..inference.visualization import draw_detections

NUM_PICTURES = 24
ZOOM = 2  # The images are too small for labels.
SCORE_THR = 0.5
CAPTION_HEIGHT = 20


def draw_pictures(config: str, predictions: Path, out_dir: Path) -> None:
    """Draw ground truth (left) and predictions (right) of the first test images.

    Args:
        config (str): Name of the config.
        predictions (Path): The pickle file that ``test --out`` wrote.
        out_dir (Path): Folder for the pictures.
    """
    init_default_scope('mmdet')
    dataset = DATASETS.build(load_config(config).test_dataloader.dataset)
    for index, found in enumerate(load(predictions)[:NUM_PICTURES]):
        truth = dataset[index]['data_samples'].gt_instances
        found = found['pred_instances']
        keep = np.flatnonzero(np.asarray(found['scores']) > SCORE_THR)
        image_path = dataset.get_data_info(index)['img_path']
        image = imread(image_path)
        left = _draw(
            image,
            truth.bboxes.tensor,
            truth.labels,
            None,
            truth.masks.to_ndarray(),
            dataset.metainfo,
            'ground truth',
        )
        right = _draw(
            image,
            np.asarray(found['bboxes'])[keep],
            np.asarray(found['labels'])[keep],
            np.asarray(found['scores'])[keep],
            [mask_api.decode(found['masks'][i]) for i in keep],
            dataset.metainfo,
            'predictions',
        )
        path = out_dir / Path(image_path).with_suffix('.png').name
        imwrite(np.hstack([left, right]), str(path))


def _draw(image, boxes, labels, scores, masks, metainfo, caption) -> np.ndarray:
    """Draw objects into an enlarged image, and a caption above it."""
    picture = draw_detections(
        image.repeat(ZOOM, 0).repeat(ZOOM, 1),
        np.asarray(boxes) * ZOOM,
        labels,
        scores,
        metainfo['classes'],
        [mask.repeat(ZOOM, 0).repeat(ZOOM, 1) for mask in masks],
        metainfo.get('palette'),
    )
    head = np.full((CAPTION_HEIGHT, picture.shape[1], 3), 255, np.uint8)
    place = 4, CAPTION_HEIGHT - 6
    cv2.putText(head, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0))
    return np.vstack([head, picture])


def join_pictures(pictures: Path, curves: Path, out: Path) -> None:
    """Write one picture of four of the pictures, with the curves under them."""
    # The first three are special (one has a crowd, one shows nothing).
    chosen = [imread(str(path)) for path in sorted(pictures.iterdir())[3:7]]
    top = np.vstack([np.hstack(chosen[:2]), np.hstack(chosen[2:])])
    bottom = imread(str(curves))
    width = top.shape[1]
    height = round(bottom.shape[0] * width / bottom.shape[1])
    bottom = imresize(bottom, (width, height), interpolation='area')
    imwrite(np.vstack([top, bottom]), str(out), [cv2.IMWRITE_JPEG_QUALITY, 85])
