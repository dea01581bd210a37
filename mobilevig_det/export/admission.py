"""Which neighbours the file of a GreedyViG admits, beside PyTorch.

One is admitted if its distance is below a threshold. Another rounding may admit
another one; then all features after it differ, though nothing is wrong. So PyTorch
takes the result of each graph step from the file, if some set of neighbours that
differs by no more than rounding gives it, and goes on with that.
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

from ..backbones.siblings import GraphMixer
from ..ops import thresholded_max
from ..ops.dagc import naive_thresholded_max
from .runtimes import Session, load

STEP = f'{thresholded_max.__name__}_'  # and a number: their results in a file
ROUNDING = 1e-5  # of a map, relative to its maximum
VALUES = 1e-4  # likewise


@contextmanager
def loaded_with_steps(path: str | Path) -> Iterator[Session]:
    """A file in its runtime; the steps' results, if there are any, are outputs, too.

    Those of one size have none: their links are written out.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.suffix == '.onnx' and _copy_onnx(path, copy):
            path = copy
        yield load(path)


def take_steps(outputs: dict[str, np.ndarray]) -> list[Tensor]:
    """Take the steps' results, in order, out of a file's outputs."""
    names = sorted(filter(_is_step, outputs), key=lambda name: int(name[len(STEP) :]))
    return [torch.from_numpy(outputs.pop(name)) for name in names]


@contextmanager
def following(
    model: nn.Module, results: list[Tensor], wrong: list[str]
) -> Iterator[None]:
    """Have PyTorch, for one image, go on with a file's results of the graph steps.

    Args:
        model (nn.Module): With a backbone.
        results (list[Tensor]): From :func:`take_steps`; where there are none,
            nothing changes.
        wrong (list[str]): Gets what rounding doesn't explain, in words.
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
                _checked,
                **mixer.graph_step.keywords,
                result=result,
                name=f'graph step {number}',
                wrong=wrong,
            )
    try:
        yield
    finally:
        for mixer, step in zip(mixers, steps):
            mixer.graph_step = step


def _checked(
    x: Tensor, stride: int, result: Tensor, name: str, wrong: list[str]
) -> Tensor:
    """``result``, if it lies between the strongest of the neighbours that are surely
    admitted and of those that may be."""
    if result.shape != x.shape:
        wrong.append(f'{name} has the shape {list(result.shape)}')
        return thresholded_max(x, stride)
    largest = float(x.abs().max())
    # Of a distance: as much in each channel.
    slack = ROUNDING * largest * x.shape[1]
    error = (result - thresholded_max(x, stride)).abs()
    if not error.max() <= VALUES * largest:
        low, high = (
            naive_thresholded_max(x, stride, slack=sign * slack) for sign in (-1, 1)
        )
        error = torch.maximum(low - result, result - high)
    worst = float(error.max())
    if not worst <= VALUES * largest:
        wrong.append(f'{name} differs by {worst / largest:.1e} of its maximum')
    return result


def _is_step(name: str) -> bool:
    return name.startswith(STEP)


def _copy_onnx(path: Path, copy: Path) -> bool:
    """Write a copy with the steps' results as outputs, if there are any."""
    import onnx

    model = onnx.load(str(path))
    names = [
        name for node in model.graph.node for name in node.output if _is_step(name)
    ]
    kind = onnx.TensorProto.FLOAT
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None) for name in names
    )
    if names:
        onnx.save_model(model, str(copy))
    return bool(names)
