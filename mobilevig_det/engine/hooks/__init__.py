"""Hooks of MMEngine's, by ``type=`` in a config."""

from .durable_checkpoint import DurableCheckpointHook
from .finite_numbers import FiniteNumbersHook

__all__ = ['DurableCheckpointHook', 'FiniteNumbersHook']
