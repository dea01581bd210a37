"""Hooks of MMEngine's, by ``type=`` in a config."""

from .bounded_runtime_info import BoundedRuntimeInfoHook
from .compile_parts import CompileHook
from .cpu_fast_paths import CpuFastPathsHook, WinogradHook
from .durable_checkpoint import DurableCheckpointHook
from .finite_numbers import FiniteNumbersHook
from .hang_watchdog import HangWatchdogHook
from .stop_signals import StopOnSignalHook

__all__ = [
    'BoundedRuntimeInfoHook',
    'CompileHook',
    'CpuFastPathsHook',
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'HangWatchdogHook',
    'StopOnSignalHook',
    'WinogradHook',
]
