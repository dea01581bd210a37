"""Timing the graph step, the backbones beside their rivals, and detectors."""

from .backbones import SIBLINGS, inference_rows, training_rows
from .detectors import detector_rows
from .evaluation import evaluation_rows
from .graph_step import GRAPH_SHAPES, graph_rows
from .images import image_rows
from .loading import loader_rows, target_rows
from .log_history import logging_rows
from .machine import machine
from .operators import operator_rows
from .results import save, write
from .rivals import RIVALS
from .runtimes import runtime_rows
from .sibling_steps import sibling_rows

__all__ = [
    'GRAPH_SHAPES',
    'RIVALS',
    'SIBLINGS',
    'detector_rows',
    'evaluation_rows',
    'graph_rows',
    'image_rows',
    'inference_rows',
    'loader_rows',
    'logging_rows',
    'machine',
    'operator_rows',
    'runtime_rows',
    'save',
    'sibling_rows',
    'target_rows',
    'training_rows',
    'write',
]
