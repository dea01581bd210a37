"""What a run has reached, and where a detector loses its AP."""

from .error_analysis import confusion, losses, mean_loss
from .fast_coco_metric import FastCocoMetric
from .run_log import comparable_arch, published_run, read_run

__all__ = [
    'FastCocoMetric',
    'comparable_arch',
    'confusion',
    'losses',
    'mean_loss',
    'published_run',
    'read_run',
]
