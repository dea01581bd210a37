"""Teacher forcing of GreedyViG's graph steps, to compare a file with PyTorch.

GreedyViG is discontinuous: it links a pixel to the neighbours whose distance is below a
threshold. If rounding decides, one runtime may link a neighbour that another one does
not. All later features then differ, although neither runtime is wrong. Therefore
PyTorch continues with the file's result of each graph step, provided that rounding
explains the difference: the result must correspond to a set of neighbours that differs
only in distances within the rounding error of the threshold.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbones.layers import GraphMixer
from ...ops import thresholded_max
from ...ops.dagc import naive_thresholded_max
from ..runtimes import Session, load

# Prefix of the names of the graph steps' results in a file; a number follows.
PREFIX = f'{thresholded_max.__name__}_'
ROUNDING = 1e-5  # of a distance, for each channel, relative to the map's maximum
TOLERANCE = 1e-4  # of a result, relative to the map's maximum


@contextmanager
def load_with_graph_steps(path: str | Path) -> Iterator[Session]:
    """Load a file in its runtime, with GreedyViG's graph steps as additional outputs.

    Files for images of one size have no such outputs, because their links are separate
    operators.

    Args:
        path (str | Path): The exported file.

    Yields:
        Session: The loaded model.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.suffix == '.onnx' and _add_step_outputs(path, copy):
            path = copy
        yield load(path)


def pop_graph_steps(outputs: dict[str, np.ndarray]) -> list[Tensor]:
    """Remove the graph steps' results from the outputs, and return them in order."""
    names = [name for name in outputs if name.startswith(PREFIX)]
    names.sort(key=lambda name: int(name.removeprefix(PREFIX)))
    return [torch.from_numpy(outputs.pop(name)) for name in names]


@contextmanager
def teacher_forcing(
    model: nn.Module, results: list[Tensor], errors: list[str]
) -> Iterator[None]:
    """Make the model continue with a file's results of the graph steps, for one image.

    Args:
        model (nn.Module): A model with a backbone.
        results (list[Tensor]): The results, from :func:`pop_graph_steps`. If the list
            is empty, the model is unchanged.
        errors (list[str]): A message is appended for each result that rounding does
            not explain.
    """
    mixers: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, GraphMixer)
        and getattr(module.graph_step, 'func', None) is thresholded_max
    ]
    steps = [mixer.graph_step for mixer in mixers]
    if results:
        for number, (mixer, result) in enumerate(zip(mixers, results, strict=True), 1):
            mixer.graph_step = partial(
                _check_result,
                **mixer.graph_step.keywords,
                result=result,
                name=f'graph step {number}',
                errors=errors,
            )
    try:
        yield
    finally:
        for mixer, step in zip(mixers, steps):
            mixer.graph_step = step


def _check_result(
    x: Tensor, stride: int, result: Tensor, name: str, errors: list[str]
) -> Tensor:
    """Return ``result``, and append an error if rounding does not explain it.

    It must lie between the maximum over the neighbours that are certainly linked and
    the maximum over those that are possibly linked.
    """
    if result.shape != x.shape:
        errors.append(f'{name} has the shape {list(result.shape)}')
        return thresholded_max(x, stride)
    largest = float(x.abs().max())
    slack = ROUNDING * largest * x.shape[1]
    difference = (result - thresholded_max(x, stride)).abs()
    if not difference.max() <= TOLERANCE * largest:
        low, high = (
            naive_thresholded_max(x, stride, slack=sign * slack) for sign in (-1, 1)
        )
        difference = torch.maximum(low - result, result - high)
    worst = float(difference.max())
    if not worst <= TOLERANCE * largest:
        errors.append(f'{name} differs by {worst / largest:.1e} of its maximum')
    return result


def _add_step_outputs(path: Path, copy: Path) -> bool:
    """Write a copy with the graph steps as outputs; return whether there are any."""
    import onnx

    model = onnx.load(str(path))
    names = [name for node in model.graph.node for name in node.output]
    names = [name for name in names if name.startswith(PREFIX)]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
    )
    if names:
        onnx.save_model(model, str(copy))
    return bool(names)
