# COCO 2017 instance segmentation, in the folder that the environment variable
# COCO_ROOT names, with or without a slash at its end. Masks stay within their boxes
# from the file to the model (docs/speed.md).
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
# Below _base_: above it, MMEngine would take this for a config of its new style.
import os  # noqa: E402

import torch  # noqa: E402

data_root = '{{$COCO_ROOT:data/coco/}}'.rstrip('/') + '/'
train_pipeline, test_pipeline = (
    [
        dict(step, type='mobilevig_det.datasets.loading.LoadCompactAnnotations')
        if step.type == 'LoadAnnotations'
        else step
        for step in pipeline
    ]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)  # noqa: F821
)
# This process's share of the cores, if torchrun started several processes.
num_workers = (os.cpu_count() or 1) // int('{{$LOCAL_WORLD_SIZE:1}}')
num_workers = min(max(num_workers, 1), 8)
pin_memory = torch.cuda.is_available()  # otherwise PyTorch warns
train_dataloader = dict(
    num_workers=num_workers,
    pin_memory=pin_memory,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=num_workers,
    pin_memory=pin_memory,
    dataset=dict(data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mobilevig_det.evaluation.FastCocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
)
test_evaluator = val_evaluator
