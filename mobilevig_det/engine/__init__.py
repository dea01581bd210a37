"""Training: resumable loops, and hooks that configs name by ``type=``."""

from .hooks import (
    BoundedRuntimeInfoHook,
    CompileHook,
    CpuFastPathsHook,
    DurableCheckpointHook,
    FiniteNumbersHook,
    HangWatchdogHook,
    StopOnSignalHook,
    WinogradHook,
)
from .loops import (
    ResumableEpochTrainLoop,
    ResumableIterTrainLoop,
    SurvivingEpochTrainLoop,
    SurvivingIterTrainLoop,
)
from .vis_backend import FaultTolerantLocalVisBackend, SurvivingLocalVisBackend
from .workers import ignore_signals, ignore_signals_in_workers

# The Surviving* names are deprecated.
__all__ = [
    'BoundedRuntimeInfoHook',
    'CompileHook',
    'CpuFastPathsHook',
    'DurableCheckpointHook',
    'FaultTolerantLocalVisBackend',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'ResumableEpochTrainLoop',
    'ResumableIterTrainLoop',
    'StopOnSignalHook',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
    'SurvivingLocalVisBackend',
    'WinogradHook',
    'ignore_signals',
    'ignore_signals_in_workers',
]
