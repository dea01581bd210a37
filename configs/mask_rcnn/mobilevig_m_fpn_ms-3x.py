# Three times as long, on images of several sizes, as MMDetection's own ms-3x
# configs. Not run by the authors, nor by us; the recipe is otherwise theirs.
_base_ = './mobilevig_m_fpn_1x.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mobilevig_det.datasets.loading.LoadCompactAnnotations',
        with_bbox=True,
        with_mask=True,
    ),
    dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_epochs=36, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=501),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=36,
        milestones=[27, 33],
        gamma=0.1,
    ),
]
