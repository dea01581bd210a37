"""Training: resumable loops, and hooks that configs name by ``type=``."""

from . import hooks
from .hooks import *  # noqa: F403
from .loops import (
    ResumableEpochTrainLoop,
    ResumableIterTrainLoop,
    SurvivingEpochTrainLoop,
    SurvivingIterTrainLoop,
)

# The Surviving* names are deprecated.
__all__ = [
    'ResumableEpochTrainLoop',
    'ResumableIterTrainLoop',
    'SurvivingEpochTrainLoop',
    'SurvivingIterTrainLoop',
    *hooks.__all__,
]
