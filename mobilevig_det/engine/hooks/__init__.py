"""Hooks of MMEngine's, by ``type=`` in a config."""

from .durable_checkpoint import DurableCheckpointHook

__all__ = ['DurableCheckpointHook']
