"""MobileViG-M on ImageNet-1K, 300 epochs with a teacher: the authors' recipe.

Training needs `pip install "mobilevig_det[imagenet]"`, testing does not. The
authors trained in half precision (--amp), and with a rate in proportion to the
batch (--auto-scale-lr).
"""

_base_ = ['../_base_/imagenet.py', '../_base_/classification_runtime.py']

# RegNetY-16GF of DeiT's authors, 82.9 % top-1; the environment variable
# TEACHER_FILE names a copy of it.
teacher_file = (
    '{{$TEACHER_FILE:https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth}}'
)

model = dict(
    type='DistillingClassifier',
    data_preprocessor=dict(
        type='ClassifierPreprocessor',
        mixing=dict(
            mixup=0.8,
            cutmix=1.0,
            prob=1.0,
            switch_prob=0.5,
            label_smoothing=0.1,
            num_classes=1000,
        ),
    ),
    backbone=dict(type='MobileViG', arch='m', drop_path_rate=0.1),
    head=dict(
        type='DistilledHead', in_channels=400, hidden_channels=768, num_classes=1000
    ),
    teacher=dict(model='regnety_160', checkpoint=teacher_file),
    alpha=0.5,
)

# No weight decay on biases and norms; the layer scale, Cx1x1, has it.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# The authors' script names 10 cooldown epochs at the lowest rate, but trains 300
# in all, so that none of them is run; max_epochs=310 would run them.
param_scheduler = [
    dict(
        type='WarmupCosineLR', epochs=300, warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5
    )
]
train_cfg = dict(max_epochs=300)

custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=1 - 0.99996,
        update_buffers=True,
    )
]
sync_bn = 'torch'
auto_scale_lr = dict(base_batch_size=1024)
randomness = dict(seed=42, diff_rank_seed=True)
