"""A detector's layers, each part as one ONNX model, by PyTorch's exporter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from mmdet.models import BaseDetector
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..custom_op import symbolic_graph_steps
from ..errors import UserError
from .onnx_glue.graph import OPSET
from .packages import needed

if TYPE_CHECKING:
    import onnx


class DenseHead(nn.Module):
    """Backbone, neck and a head that looks at every pixel: an RPN or a
    one-stage detector's. Its outputs follow the maps of the neck."""

    def __init__(self, detector: BaseDetector, head: BaseModule):
        super().__init__()
        self.detector = detector
        self.head = head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.detector.extract_feat(image)
        outs: list[Tensor] = []
        for out in self.head(maps):
            outs.extend([out] if isinstance(out, Tensor) else out)
        return (*maps, *outs)


def to_onnx(
    module: nn.Module, example: Tensor, name: str, dynamic: Sequence[int]
) -> 'onnx.ModelProto':
    """Export a module of one input, whose axes ``dynamic`` may have any size.

    A graph step of any size is one operator in it, of
    :data:`.onnx_glue.graph_steps.STEPS`.

    Raises:
        UserError: If PyTorch's exporter can't, or onnxscript is missing.
    """
    needed('onnxscript', 'onnx')
    try:
        with torch.no_grad(), _hushed(), symbolic_graph_steps():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=({i: torch.export.Dim.DYNAMIC for i in dynamic},),
                input_names=['input'],
                verbose=False,
            )
    except Exception as error:
        reason = str(error.__cause__ or error).strip()
        raise UserError(
            f"PyTorch's exporter (torch {torch.__version__}) cannot write the "
            f'{name} of this model in ONNX: {reason or repr(error)}'
        ) from error
    if program is None:
        raise UserError(f"PyTorch's exporter wrote nothing for the {name}.")
    model = program.model_proto
    model.graph.name = name
    return model


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what the exporter says of packages that nothing here needs."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
