# COCO 2017 instance segmentation, in the folder that the environment variable
# COCO_ROOT names, with or without a slash at its end. Masks stay within their boxes
# from the file to the model (docs/speed.md).
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
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
# As many as this process has cores for, its share if torchrun started several.
# (An import statement would make it a config of another kind.)
num_workers = (__import__('os').cpu_count() or 1) // int('{{$LOCAL_WORLD_SIZE:1}}')
num_workers = min(max(num_workers, 1), 8)
pin_memory = __import__('torch').cuda.is_available()  # else PyTorch warns
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
