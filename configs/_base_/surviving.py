# MMDetection's runtime, with checkpoints that a kill or a full disk can't spoil,
# also every ten minutes in the middle of an epoch. By whole names, which need no
# custom_imports where a config of yours inherits this. The loop that resumes in
# the middle of an epoch is in the configs: train_cfg is the schedule's.
_base_ = 'mmdet::_base_/default_runtime.py'
default_hooks = dict(
    checkpoint=dict(type='mobilevig_det.engine.DurableCheckpointHook'),
    # NaN and infinity are named, and leave no trace.
    finite_numbers=dict(type='mobilevig_det.engine.FiniteNumbersHook'),
    # SIGTERM and Ctrl-C save; a dead or hung process ends the job.
    stop_on_signal=dict(type='mobilevig_det.engine.StopOnSignalHook'),
    hang_watchdog=dict(type='mobilevig_det.engine.HangWatchdogHook'),
    # The history of what is logged doesn't grow.
    runtime_info=dict(type='mobilevig_det.engine.BoundedRuntimeInfoHook'),
    # On CPUs 3x3 convolutions take half of the time.
    winograd=dict(type='mobilevig_det.engine.WinogradHook'),
)
# A disk that fails costs points of the curves.
visualizer = dict(
    vis_backends=[dict(type='mobilevig_det.engine.SurvivingLocalVisBackend')]
)
