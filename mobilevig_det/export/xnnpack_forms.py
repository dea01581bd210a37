"""What necks do, in the operators that XNNPACK has, to the bit.

It has no nearest-neighbour upsampling, no pooling of single pixels and no
maps of more than four axes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram


def in_xnnpack_forms(program: ExportedProgram) -> ExportedProgram:
    """Rewrite the upsampling and the extra levels of a neck.

    What can't be rewritten stays as it is.
    """
    aten = torch.ops.aten
    return program.run_decompositions(
        {aten.upsample_nearest2d.vec: _doubled, aten.max_pool2d.default: _every_second}
    )


def _doubled(
    x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Tensor:
    """Nearest-neighbour upsampling to twice the size, with repeated pixels."""
    batch, channels, height, width = x.shape
    if output_size is None:
        fits = list(scale_factors or ()) == [2.0, 2.0]
    else:
        fits = list(output_size) == [2 * height, 2 * width]
    if not fits:
        return NotImplemented
    x = _twice(x, (batch, channels * height, width, 1), 3)
    x = _twice(x, (batch, channels * height, 1, 2 * width), 2)
    return x.reshape(batch, channels, 2 * height, 2 * width)


def _twice(x: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    # Two reshapes, for XNNPACK's partitioner wants two nodes to concatenate.
    return torch.cat([x.reshape(shape), x.reshape(shape)], dim)


def _every_second(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Every second row and column: max pooling of 1 pixel at stride 2."""
    if {*kernel_size} != {1} or {*stride} != {2} or {*padding} != {0}:
        return NotImplemented
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, width % 2, 0, height % 2))
    rows, columns = -(-height // 2), -(-width // 2)
    x = x.reshape(batch, channels * rows, 2, 2 * columns).narrow(2, 0, 1)
    x = x.reshape(batch, channels * rows, columns, 2).narrow(3, 0, 1)
    return x.reshape(batch, channels, rows, columns)
