"""Ti on the ten generated classes of tools/make_shapes.py, from scratch, in five
minutes on two CPU cores: the ImageNet recipe's miniature."""

_base_ = ['../_base_/imagenet.py', '../_base_/classification_runtime.py']

# The folder of `tools/make_shapes.py --task classification`. The environment variable
# SHAPE_CLASSES_ROOT names another one.
data_root = '{{$SHAPE_CLASSES_ROOT:data/shape_classes/}}'.rstrip('/') + '/'
num_classes = 10
max_epochs = 12

# As in the demo's detector, which can start from this model's checkpoint. The layer
# scale is 1 because nothing is pretrained.
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
loader = dict(batch_size=64, num_workers=1, pin_memory=False)
train_dataloader = dict(
    **loader,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(data_root=data_root, num_classes=num_classes, pipeline=train_pipeline),
)
val_dataloader = dict(
    **loader,
    dataset=dict(data_root=data_root, num_classes=num_classes, pipeline=test_pipeline),
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
# The averaged weights are evaluated after each epoch, and saved next to the raw ones.
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
