"""A small COCO-format data set that tests can break."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import torch
from bad_images import encode, picture
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS
from mmengine.config import Config

# In the order of the file, with gaps between the ids as in COCO.
CATEGORIES = [(3, 'circle'), (7, 'square'), (90, 'triangle')]
CLASSES = tuple(name for _, name in CATEGORIES)
WIDTH, HEIGHT = 160, 120
JPEG = encode(picture(WIDTH, HEIGHT))


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def rle(box, height=HEIGHT, width=WIDTH, compressed=True):
    mask = np.zeros((height, width), np.uint8, order='F')
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    if compressed:
        code = mask_utils.encode(mask)
        return dict(size=code['size'], counts=code['counts'].decode())
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return dict(size=[height, width], counts=lengths)


def annotation(id, image_id, category_id, box, segmentation=None, crowd=0):
    return dict(
        id=id,
        image_id=image_id,
        category_id=category_id,
        bbox=list(box),
        area=box[2] * box[3],
        iscrowd=crowd,
        segmentation=segmentation or polygon(box),
    )


def content():
    """Content of a correct annotation file: four images, the last without objects."""
    images = [
        dict(id=10 * i, file_name=f'{i}.jpg', width=WIDTH, height=HEIGHT)
        for i in range(1, 5)
    ]
    boxes = [(8, 10, 40, 30), (60, 20, 50, 60), (20, 50, 30, 40)]
    annotations = [
        annotation(100, 10, 3, boxes[0]),
        annotation(101, 10, 7, boxes[1], rle(boxes[1])),
        annotation(102, 20, 90, boxes[2]),
        annotation(103, 20, 3, boxes[1], rle(boxes[1], compressed=False), 1),
        annotation(104, 30, 7, boxes[0]),
    ]
    categories = [
        dict(id=id, name=name, supercategory='shape') for id, name in CATEGORIES
    ]
    return dict(images=images, annotations=annotations, categories=categories)


def write(root, split='train', data=None):
    """Write a split: annotations (an object, or text that is written as is), images."""
    data = content() if data is None else data
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, 5):
        (folder / f'{i}.jpg').write_bytes(JPEG)
    text = data if isinstance(data, str) else json.dumps(data)
    (root / f'{split}.json').write_text(text)


def config(root, classes=CLASSES):
    """Make a config with loaders and an evaluator of the data."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]

    def dataset(split, **kwargs):
        return dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{split}.json',
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=classes),
            pipeline=pipeline,
            **kwargs,
        )

    def loader(dataset):
        return dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dataset,
        )

    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=loader(
                dataset('train', filter_cfg=dict(filter_empty_gt=True, min_size=32))
            ),
            val_dataloader=loader(dataset('val', test_mode=True)),
            val_evaluator=dict(
                type='CocoMetric',
                ann_file=str(root / 'val.json'),
                metric=['bbox', 'segm'],
            ),
        )
    )


def _perfect_predictions(dataset):
    """Yield predictions that equal the ground truth."""
    for sample in (dataset[i]['data_samples'] for i in range(len(dataset))):
        height, width = sample.ori_shape
        yield dict(
            img_id=sample.img_id,
            ori_shape=sample.ori_shape,
            pred_instances=dict(
                bboxes=torch.tensor([[8.0, 10, 48, 40]]),
                scores=torch.tensor([0.9]),
                labels=torch.tensor([0]),
                masks=[
                    mask_utils.encode(
                        np.asfortranarray(np.eye(height, width, dtype=np.uint8))
                    )
                ],
            ),
        )


def load_and_evaluate(cfg, split):
    """Load a split, and evaluate predictions on it, as MMDetection does in a run."""
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) > 0
    items = [dataset[i] for i in range(len(dataset))]
    assert all(item is not None for item in items)
    if split == 'val':
        metric = CocoMetric(
            **{key: value for key, value in cfg.val_evaluator.items() if key != 'type'}
        )
        metric.dataset_meta = dataset.metainfo
        for prediction in _perfect_predictions(dataset):
            metric.process({}, [prediction])
        metric.evaluate(len(dataset))
