# As coco_instance.py, without the masks.
_base_ = './coco_instance.py'
train_pipeline, test_pipeline = (
    [
        dict(type='LoadAnnotations', with_bbox=True)
        if step.type.endswith('Annotations')
        else step
        for step in pipeline
    ]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)  # noqa: F821
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
