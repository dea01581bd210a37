"""Training: resumable loops, and hooks that configs name by ``type=``."""

from . import hooks
from .hooks import *  # noqa: F403
from .loops import (
    ResumableEpochTrainLoop,
    ResumableIterTrainLoop,
    SurvivingEpochTrainLoop,
    SurvivingIterTrainLoop,
)
from .vis_backend import FaultTolerantLocalVisBackend, SurvivingLocalVisBackend

# The Surviving* names are deprecated.
__all__ = [
    'FaultTolerantLocalVisBackend',
    'ResumableEpochTrainLoop',
    'ResumableIterTrainLoop',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
    'SurvivingLocalVisBackend',
]
__all__ += hooks.__all__
