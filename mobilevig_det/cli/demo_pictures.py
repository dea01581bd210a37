"""Pictures of the demo's results."""

from pathlib import Path

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

from ..config import load_config

NUM_PICTURES = 24
ZOOM = 3


def _enlarge(boxes, labels, masks, **others) -> InstanceData:
    """Scale boxes (N, 4) and masks (N, H, W) of an image by ``ZOOM``."""
    masks = np.asarray(masks, np.uint8)
    return InstanceData(
        bboxes=torch.as_tensor(boxes) * ZOOM,
        labels=torch.as_tensor(labels),
        masks=masks.repeat(ZOOM, 1).repeat(ZOOM, 2).astype(bool),
        **others,
    )


def draw_pictures(config: str, predictions: Path, out_dir: Path) -> None:
    """Draw ground truth (left) and predictions (right) of the first test images.

    The images are enlarged, because they are too small for the labels that
    MMDetection's visualizer draws.

    Args:
        config (str): Name of the config.
        predictions (Path): The pickle file that ``test --out`` wrote.
        out_dir (Path): Folder for the pictures.
    """
    init_default_scope('mmdet')
    dataset = DATASETS.build(load_config(config).test_dataloader.dataset)
    visualizer = DetLocalVisualizer(name='demo', alpha=0.6)
    visualizer.dataset_meta = dataset.metainfo
    for index, found in enumerate(load(predictions)[:NUM_PICTURES]):
        truth = dataset[index]['data_samples'].gt_instances
        found = found['pred_instances']
        image_path = dataset.get_data_info(index)['img_path']
        image = imread(image_path)
        size = image.shape[:2]
        sample = DetDataSample(
            gt_instances=_enlarge(
                truth.bboxes.tensor, truth.labels, truth.masks.to_ndarray()
            ),
            pred_instances=_enlarge(
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


def join_pictures(pictures: Path, curves: Path, out: Path) -> None:
    """Write one picture of four of the pictures, with the curves under them."""
    # The first three are special (one has a crowd, one shows nothing).
    chosen = [imread(str(path)) for path in sorted(pictures.iterdir())[3:7]]
    top = np.vstack([np.hstack(chosen[:2]), np.hstack(chosen[2:])])
    top = imrescale(top, 0.625)
    bottom = imread(str(curves))
    width = top.shape[1]
    height = round(bottom.shape[0] * width / bottom.shape[1])
    bottom = imresize(bottom, (width, height), interpolation='area')
    imwrite(np.vstack([top, bottom]), str(out), [IMWRITE_JPEG_QUALITY, 85])
