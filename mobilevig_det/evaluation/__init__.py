"""Evaluation: COCO metrics, error analysis, and logs of training runs."""

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
