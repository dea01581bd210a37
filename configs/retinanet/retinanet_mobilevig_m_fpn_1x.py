# RetinaNet, MobileViG-M, FPN, COCO 2017, 12 epochs. Not run by the authors,
# nor by us: the optimizer is that of MMDetection's own RetinaNet configs with
# a light transformer (PVT).
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/coco_detection.py',
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
        init_cfg=dict(type='Pretrained', checkpoint='mobilevig://m'),
    ),
    neck=dict(in_channels=[42, 84, 224, 400]),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.0001)
)

# BatchNorm statistics over all GPUs (without a launcher: plain BatchNorm).
sync_bn = 'torch'
