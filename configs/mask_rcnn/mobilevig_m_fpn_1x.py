# Mask R-CNN, MobileViG-M, FPN, COCO 2017, 12 epochs: the authors' recipe.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/coco_instance.py',
    '../_base_/schedule_1x.py',
    '../_base_/default_runtime.py',
]
custom_imports = dict(imports=['mobilevig_det'])

model = dict(
    data_preprocessor=dict(non_blocking=True),  # the loaders pin memory
    backbone=dict(
        _delete_=True,
        type='MobileViG',
        arch='m',
        drop_path_rate=0.1,
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='mobilevig://m'),
    ),
    neck=dict(in_channels=[42, 84, 224, 400]),
)

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05
    )
)

param_scheduler = [
    # The authors' MMDetection 2 reaches the full rate at iteration 500,
    # MMEngine at end - 1.
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=501),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=12,
        milestones=[8, 11],
        gamma=0.1,
    ),
]

# BatchNorm statistics over all GPUs (without a launcher: plain BatchNorm).
sync_bn = 'torch'

# (4 GPUs) x (2 samples per GPU)
auto_scale_lr = dict(base_batch_size=8)
