"""What a run has reached, and where a detector loses its AP."""

from .error_analysis import confusion, losses, mean_loss
from .run_log import comparable_arch, published_run, read_run

__all__ = [
    'comparable_arch',
    'confusion',
    'losses',
    'mean_loss',
    'published_run',
    'read_run',
]
