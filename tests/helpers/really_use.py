"""Data as MMDetection uses it in a run."""

import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS


def perfect_predictions(dataset):
    """What a model that saw the truth would predict."""
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


def really_use(cfg, split):
    """All that MMDetection will do with the data during a run."""
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) > 0
    items = [dataset[i] for i in range(len(dataset))]
    assert all(item is not None for item in items)
    if split == 'val':
        metric = CocoMetric(
            **{key: value for key, value in cfg.val_evaluator.items() if key != 'type'}
        )
        metric.dataset_meta = dataset.metainfo
        for prediction in perfect_predictions(dataset):
            metric.process({}, [prediction])
        metric.evaluate(len(dataset))
