"""MMDetection's visualizer with our drawing."""

from mobilevig_det.cli.test import VISUALIZER
from mobilevig_det.inference.drawings import unique_names
from mobilevig_det.inference.visualization import draw_detections

import cv2
import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData


def test_truth_beside_predictions_as_draw_detections_has_them(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (90, 120, 3), np.uint8)
    boxes = np.float32([[10, 20, 60, 70], [50, 5, 110, 50]])
    masks = np.zeros((2, 90, 120), np.uint8)
    masks[0, 30:60, 20:50] = masks[1, 10:40, 60:100] = 1
    labels = torch.tensor([0, 1])
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=HorizontalBoxes(boxes),
            labels=labels,
            masks=BitmapMasks(masks, 90, 120),
        ),
        pred_instances=InstanceData(
            bboxes=torch.from_numpy(boxes) + 3,
            labels=labels,
            scores=torch.tensor([0.9, 0.2]),
            masks=torch.from_numpy(masks).bool(),
        ),
    )
    visualizer = VISUALIZERS.build(dict(type=VISUALIZER, name=str(tmp_path)))
    classes, palette = ('cat', 'dog'), [(220, 20, 60), (0, 120, 220)]
    visualizer.dataset_meta = dict(classes=classes, palette=palette)
    path = str(tmp_path / 'drawn.png')
    visualizer.add_datasample('', rgb, sample, out_file=path, pred_score_thr=0.5)
    bgr = rgb[..., ::-1]
    left = draw_detections(bgr, boxes, labels, None, classes, masks, palette)
    right = draw_detections(bgr, boxes[:1] + 3, [0], [0.9], classes, masks[:1], palette)
    np.testing.assert_array_equal(cv2.imread(path), np.hstack([left, right]))


def test_pictures_of_images_with_one_name_have_names_of_their_own(tmp_path):
    visualizer = VISUALIZERS.build(dict(type=VISUALIZER, name=str(tmp_path)))
    visualizer.dataset_meta = dict(classes=('cat',))
    paths = [f'data/cam{i}/frame.png' for i in range(3)] + ['data/x.webp']
    visualizer.file_names = unique_names(paths)
    for value, path in enumerate(paths):
        image = np.full((8, 9, 3), 20 * value, np.uint8)
        sample = DetDataSample(metainfo=dict(img_path=path))
        out_file = str(tmp_path / path.rpartition('/')[2])
        visualizer.add_datasample('', image, sample, draw_gt=False, out_file=out_file)
    found = {path.name: cv2.imread(str(path)).max() for path in tmp_path.glob('*.*')}
    assert found.pop('x.webp.jpg') in range(58, 63)
    assert found == {'frame.png': 0, 'frame_2.png': 20, 'frame_3.png': 40}


def test_more_classes_than_colours(tmp_path):
    visualizer = VISUALIZERS.build(dict(type=VISUALIZER, name=str(tmp_path)))
    classes = [f'c{i}' for i in range(300)]
    visualizer.dataset_meta = dict(classes=classes, palette=[(1, 2, 3)] * 80)
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=torch.tensor([[2.0, 2, 30, 30], [40, 2, 60, 30]]),
            labels=torch.tensor([299, 5]),
        )
    )
    image = np.zeros((64, 64, 3), np.uint8)
    visualizer.add_datasample('', image, sample, draw_pred=False)
    drawn = visualizer.get_image()
    assert drawn[30, 10].tolist() != drawn[30, 50].tolist() != [0, 0, 0]
