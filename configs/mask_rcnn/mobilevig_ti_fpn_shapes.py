"""The default run of `make demo`: Ti with narrow heads, from scratch, on the
generated shapes, in some minutes on two CPU cores."""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/coco_instance.py',
    '../_base_/default_runtime.py',
]
custom_imports = dict(imports=['mobilevig_det'], allow_failed_imports=False)

# The folder of tools/make_shapes.py. The environment variable SHAPES_ROOT names
# another one, with or without a slash at its end.
data_root = '{{$SHAPES_ROOT:data/shapes/}}'.rstrip('/') + '/'
metainfo = dict(
    classes=('circle', 'square', 'triangle'),
    palette=[(220, 20, 60), (0, 120, 220), (60, 180, 60)],
)
num_classes = 3
image_size = (128, 128)
max_epochs = 5

# Objects of 20 to 75 pixels: anchors of 24 to 192 instead of 32 to 512, and
# as many channels, samples and proposals as a few of them need. Normalisation
# in the heads and a layer scale of 1, because nothing is pretrained.
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileViG',
        arch='ti',
        drop_path_rate=0.0,
        layer_scale_init_value=1.0,
    ),
    neck=dict(
        in_channels=[42, 84, 168, 256], out_channels=64, num_outs=4, norm_cfg=norm_cfg
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=1,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=num_classes,
        ),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            norm_cfg=norm_cfg,
            num_classes=num_classes,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=150, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.34)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=150, max_per_img=100), rcnn=dict(max_per_img=50)),
)

train_pipeline, test_pipeline = (
    [
        dict(step, scale=image_size) if step.type == 'Resize' else step
        for step in pipeline
    ]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)  # noqa: F821
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
train_cfg = dict(
    type='mobilevig_det.engine.ResumableEpochTrainLoop',
    max_epochs=max_epochs,
    val_interval=1,
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
