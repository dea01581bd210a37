"""Training that survives: hooks and loops of MMEngine's, by ``type=`` in a config."""

from .curves import SurvivingLocalVisBackend
from .hooks import (
    BoundedRuntimeInfoHook,
    DurableCheckpointHook,
    FiniteNumbersHook,
    HangWatchdogHook,
    StopOnSignalHook,
)
from .loops import SurvivingEpochTrainLoop, SurvivingIterTrainLoop
from .workers import ignore_signals, ignore_signals_in_workers

__all__ = [
    'BoundedRuntimeInfoHook',
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'StopOnSignalHook',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
    'SurvivingLocalVisBackend',
    'ignore_signals',
    'ignore_signals_in_workers',
]
