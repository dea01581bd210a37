"""Hooks for training, and the backend of its log."""

from .durable_checkpoint import DurableCheckpointHook
from .finite_numbers import FiniteNumbersHook
from .hang_watchdog import HangWatchdogHook
from .model_speed import CompileHook, CpuFastPathsHook, WinogradHook
from .stop_on_signal import StopOnSignalHook, ignore_signals, ignore_signals_in_workers
from .training_log import (
    BoundedRuntimeInfoHook,
    FaultTolerantLocalVisBackend,
    SurvivingLocalVisBackend,
)

__all__ = [
    'BoundedRuntimeInfoHook',
    'CompileHook',
    'CpuFastPathsHook',
    'DurableCheckpointHook',
    'FaultTolerantLocalVisBackend',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'StopOnSignalHook',
    'SurvivingLocalVisBackend',
    'WinogradHook',
    'ignore_signals',
    'ignore_signals_in_workers',
]
