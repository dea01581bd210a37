"""Measure speed and memory next to the reference implementation, MMDetection and
baselines. ``tools/benchmark.py`` is the command."""

from .backbones import BASELINES, SIBLINGS, inference_rows, training_rows
from .detectors import detector_rows
from .evaluation import evaluation_rows
from .graph_steps import GRAPH_SHAPES, graph_rows, sibling_rows
from .images import image_rows
from .machine import describe_machine
from .operators import operator_rows
from .report import save, write_json
from .runtimes import runtime_rows
from .training_overhead import loader_rows, logging_rows, target_rows

# Parts of the benchmark in the order in which they run. Each takes the arguments of the
# command and yields rows of the table.
PARTS = dict(
    graph=graph_rows,
    inference=inference_rows,
    training=training_rows,
    operators=operator_rows,
    runtimes=runtime_rows,
    loader=loader_rows,
    targets=target_rows,
    evaluation=evaluation_rows,
    logging=logging_rows,
    images=image_rows,
    siblings=sibling_rows,
    detector=detector_rows,
)

__all__ = [
    'BASELINES',
    'GRAPH_SHAPES',
    'PARTS',
    'SIBLINGS',
    'describe_machine',
    'save',
    'write_json',
]
