"""Training that survives, and is fast: hooks and loops of MMEngine's, by ``type=``
in a config."""

from .curves import SurvivingLocalVisBackend
from .hooks import (
    BoundedRuntimeInfoHook,
    CompileHook,
    DurableCheckpointHook,
    FiniteNumbersHook,
    HangWatchdogHook,
    StopOnSignalHook,
    WinogradHook,
)
from .loops import SurvivingEpochTrainLoop, SurvivingIterTrainLoop
from .workers import ignore_signals, ignore_signals_in_workers

__all__ = [
    'BoundedRuntimeInfoHook',
    'CompileHook',
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'StopOnSignalHook',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
    'SurvivingLocalVisBackend',
    'WinogradHook',
    'ignore_signals',
    'ignore_signals_in_workers',
]
