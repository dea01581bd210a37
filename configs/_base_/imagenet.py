# ImageNet-1K in the folder that the environment variable IMAGENET_ROOT names: train/
# and val/, each with one folder for each class.
data_root = '{{$IMAGENET_ROOT:data/imagenet/}}'.rstrip('/') + '/'
num_classes = 1000
# In the order B, G, R, as the images are loaded.
bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]

# As the authors do: Pillow's JPEG decoder and bicubic resizing, 224 / 0.9 = 248.
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
test_pipeline = [
    load,
    dict(type='ResizeShortEdge', length=248),
    dict(type='CropCenter', size=224),
    dict(type='PackImage'),
]

# timm's rand-m9-mstd0.5-inc1: two of these at magnitude 9 of 10, each applied with
# probability 0.5. The scope is explicit because MMDetection has transforms of the same
# names.
rand_augment_policies = [
    dict(type='mmpretrain.AutoContrast'),
    dict(type='mmpretrain.Equalize'),
    dict(type='mmpretrain.Invert'),
    dict(type='mmpretrain.Rotate', magnitude_range=(0, 30)),
    dict(type='mmpretrain.Posterize', magnitude_range=(4, 0)),
    dict(type='mmpretrain.Solarize', magnitude_range=(256, 0)),
    dict(type='mmpretrain.SolarizeAdd', magnitude_range=(0, 110)),
    dict(type='mmpretrain.ColorTransform', magnitude_range=(0, 0.9)),
    dict(type='mmpretrain.Contrast', magnitude_range=(0, 0.9)),
    dict(type='mmpretrain.Brightness', magnitude_range=(0, 0.9)),
    dict(type='mmpretrain.Sharpness', magnitude_range=(0, 0.9)),
    dict(type='mmpretrain.Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='mmpretrain.Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(
        type='mmpretrain.Translate', magnitude_range=(0, 0.45), direction='horizontal'
    ),
    dict(type='mmpretrain.Translate', magnitude_range=(0, 0.45), direction='vertical'),
]
# Random interpolation: bilinear or bicubic.
train_pipeline = [
    load,
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='mmpretrain.RandomResizedCrop',
                    scale=224,
                    backend='pillow',
                    interpolation=interpolation,
                )
            ]
            for interpolation in ('bilinear', 'bicubic')
        ],
    ),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='mmpretrain.RandAugment',
                    policies=rand_augment_policies,
                    num_policies=2,
                    total_level=10,
                    magnitude_level=9,
                    magnitude_std=0.5,
                    hparams=dict(
                        pad_val=[round(x) for x in bgr_mean],
                        interpolation=interpolation,
                    ),
                )
            ]
            for interpolation in ('bilinear', 'bicubic')
        ],
    ),
    # Pixels from a normal distribution with the images' mean and std (timm's 'pixel').
    dict(
        type='mmpretrain.RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type='PackImage'),
]

# 8 GPUs of 128.
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='mmpretrain.RepeatAugSampler', num_repeats=3, shuffle=True),
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
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
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
