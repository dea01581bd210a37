"""Training that survives: hooks and loops of MMEngine's, by ``type=`` in a config."""

from .hooks import DurableCheckpointHook, FiniteNumbersHook
from .loops import SurvivingEpochTrainLoop, SurvivingIterTrainLoop

__all__ = [
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
]
