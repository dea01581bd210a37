auto_scale_lr = dict(base_batch_size=64, enable=False)
custom_hooks = [
    dict(
        ema_type='ExponentialMovingAverage',
        momentum=0.02,
        type='EMAHook',
        update_buffers=True),
]
custom_imports = dict(imports=[
    'mobilevig_det.classification',
])
data_root = 'data/shape_classes/'
default_hooks = dict(
    checkpoint=dict(
        interval=1,
        max_keep_ckpts=2,
        type='mobilevig_det.engine.DurableCheckpointHook'),
    finite_numbers=dict(type='mobilevig_det.engine.FiniteNumbersHook'),
    hang_watchdog=dict(type='mobilevig_det.engine.HangWatchdogHook'),
    logger=dict(interval=10, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    runtime_info=dict(type='mobilevig_det.engine.BoundedRuntimeInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    stop_on_signal=dict(type='mobilevig_det.engine.StopOnSignalHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmdet'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
max_epochs = 12
model = dict(
    backbone=dict(
        arch='ti',
        drop_path_rate=0.0,
        layer_scale_init_value=1.0,
        type='MobileViG'),
    data_preprocessor=dict(
        mixing=dict(cutmix=0.0, mixup=0.0, num_classes=10),
        type='ClassifierPreprocessor'),
    head=dict(
        hidden_channels=512,
        in_channels=256,
        num_classes=10,
        type='DistilledHead'),
    type='ImageClassifier')
num_classes = 10
optim_wrapper = dict(
    optimizer=dict(lr=0.002, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
    type='OptimWrapper')
param_scheduler = [
    dict(by_epoch=False, end=50, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=12,
        convert_to_iter_based=True,
        eta_min_ratio=0.01,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=64,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        data_prefix=dict(img='val/'),
        data_root='data/shape_classes/',
        num_classes=10,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackImage'),
        ],
        test_mode=True,
        type='ImageFolder'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(type='TopKAccuracy')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='PackImage'),
]
train_cfg = dict(
    max_epochs=12,
    type='mobilevig_det.engine.SurvivingEpochTrainLoop',
    val_interval=1)
train_dataloader = dict(
    batch_size=64,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        data_prefix=dict(img='train/'),
        data_root='data/shape_classes/',
        num_classes=10,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackImage'),
        ],
        type='ImageFolder'),
    drop_last=True,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PackImage'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=64,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        data_prefix=dict(img='val/'),
        data_root='data/shape_classes/',
        num_classes=10,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackImage'),
        ],
        test_mode=True,
        type='ImageFolder'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(type='TopKAccuracy')
visualizer = dict(
    type='Visualizer',
    vis_backends=[
        dict(type='mobilevig_det.engine.SurvivingLocalVisBackend'),
    ])
