# MMDetection's default runtime with this project's hooks. Types are full names, so a
# config that inherits this file needs no custom_imports for them. train_cfg is part
# of the schedule, so the configs choose ResumableEpochTrainLoop themselves.
_base_ = 'mmdet::_base_/default_runtime.py'
default_hooks = dict(
    # Write checkpoints atomically, each epoch and every ten minutes.
    checkpoint=dict(type='mobilevig_det.engine.DurableCheckpointHook'),
    # Skip steps with NaN or infinite losses or gradients, and report them.
    finite_numbers=dict(type='mobilevig_det.engine.FiniteNumbersHook'),
    # Save a checkpoint and exit on SIGTERM or Ctrl-C.
    stop_on_signal=dict(type='mobilevig_det.engine.StopOnSignalHook'),
    # Abort the job when a rank has died or stalls.
    hang_watchdog=dict(type='mobilevig_det.engine.HangWatchdogHook'),
    # Keep only as much of the log history as the log needs.
    runtime_info=dict(type='mobilevig_det.engine.BoundedRuntimeInfoHook'),
    # Halve the time of 3x3 convolutions on CPUs. The key is that of 0.2, whose
    # settings still apply.
    winograd=dict(type='mobilevig_det.engine.CpuFastPathsHook'),
)
# Whether training and inference take the fast paths for CPUs.
cpu_fast_paths = True
# Continue training when losses and metrics can't be written to the disk.
visualizer = dict(
    vis_backends=[dict(type='mobilevig_det.engine.FaultTolerantLocalVisBackend')]
)
