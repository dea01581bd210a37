"""Training that survives: hooks and loops of MMEngine's, by ``type=`` in a config."""

from .hooks import DurableCheckpointHook

__all__ = ['DurableCheckpointHook']
