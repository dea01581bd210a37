"""The parts of the benchmark."""

from .backbones import inference_rows, training_rows
from .detectors import detector_rows
from .evaluation import evaluation_rows
from .graph_steps import graph_rows, sibling_rows
from .images import image_rows
from .operators import operator_rows
from .runtimes import runtime_rows
from .training_overhead import loader_rows, logging_rows, target_rows

# In the order in which they run. Each takes the arguments of the command and yields the
# rows of a table.
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
