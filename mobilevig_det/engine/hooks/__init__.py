"""Hooks for training."""

from .bounded_runtime_info import BoundedRuntimeInfoHook
from .compile_model import CompileHook
from .cpu_fast_paths import CpuFastPathsHook, WinogradHook
from .durable_checkpoint import DurableCheckpointHook
from .finite_numbers import FiniteNumbersHook
from .hang_watchdog import HangWatchdogHook
from .stop_on_signal import StopOnSignalHook, ignore_signals, ignore_signals_in_workers

__all__ = [
    'BoundedRuntimeInfoHook',
    'CompileHook',
    'CpuFastPathsHook',
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'StopOnSignalHook',
    'WinogradHook',
    'ignore_signals',
    'ignore_signals_in_workers',
]
