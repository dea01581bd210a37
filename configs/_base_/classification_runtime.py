# How a classifier is run, whatever it is trained on: MMEngine's own defaults, with
# checkpoints and a loop that survive (see surviving.py).
default_scope = 'mmdet'
custom_imports = dict(imports=['mobilevig_det.classification'])
train_cfg = dict(
    type='mobilevig_det.engine.ResumableEpochTrainLoop', max_epochs=300, val_interval=1
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
val_evaluator = dict(type='TopKAccuracy')
test_evaluator = val_evaluator
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mobilevig_det.engine.DurableCheckpointHook', interval=1, max_keep_ckpts=2
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    finite_numbers=dict(type='mobilevig_det.engine.FiniteNumbersHook'),
    stop_on_signal=dict(type='mobilevig_det.engine.StopOnSignalHook'),
    hang_watchdog=dict(type='mobilevig_det.engine.HangWatchdogHook'),
    runtime_info=dict(type='mobilevig_det.engine.BoundedRuntimeInfoHook'),
)
visualizer = dict(
    type='Visualizer',
    vis_backends=[dict(type='mobilevig_det.engine.FaultTolerantLocalVisBackend')],
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
