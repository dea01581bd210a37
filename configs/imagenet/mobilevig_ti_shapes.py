"""Ti on the ten generated classes of tools/make_shapes.py, from nothing, in five
minutes on two CPU cores: the ImageNet recipe's miniature."""

_base_ = '../_base_/classification_runtime.py'

# Where `tools/make_shapes.py --task classification` put it. The environment
# variable SHAPE_CLASSES_ROOT changes it.
data_root = '{{$SHAPE_CLASSES_ROOT:data/shape_classes/}}'.rstrip('/') + '/'
num_classes = 10
max_epochs = 12

# As in the detector of the demo, which can start from this one's checkpoint: a
# layer scale of 1, because nothing is pretrained.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClassifierPreprocessor',
        mixing=dict(mixup=0.0, cutmix=0.0, num_classes=num_classes),
    ),
    backbone=dict(
        type='MobileViG', arch='ti', drop_path_rate=0.0, layer_scale_init_value=1.0
    ),
    head=dict(
        type='DistilledHead',
        in_channels=256,
        hidden_channels=512,
        num_classes=num_classes,
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackImage'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackImage')]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        data_prefix=dict(img='train/'),
        num_classes=num_classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        data_prefix=dict(img='val/'),
        num_classes=num_classes,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
# The averaged weights are scored after each epoch, and written beside the raw.
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=0.02,
        update_buffers=True,
    )
]
randomness = dict(seed=0)
