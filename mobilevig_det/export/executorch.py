"""ExecuTorch files for XNNPACK, the CPU backend on Android and iOS."""

import operator
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..errors import UserError
from .backbone import export_program, require_size
from .metadata import to_json
from .runtimes import quiet, require


def write_executorch(
    model: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Write a float32 .pte file that runs completely in XNNPACK.

    The metadata is written next to it, to a .json file of the same name.

    Args:
        model (nn.Module): Maps images (1, 3, H, W) to a tuple of feature maps.
        path (str | Path): The .pte file.
        size (tuple[int, int] | None): Height and width of the images.
        metadata (dict): The metadata, from :func:`.metadata.make_metadata`.

    Raises:
        UserError: If XNNPACK lacks an operator, or the size is None.
    """
    require('executorch')
    size = require_size(size, 'executorch')
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            rewrite_for_xnnpack(export_program(model, size)),
            partitioner=[XnnpackPartitioner()],
        )
        _check_delegated(lowered.exported_program().graph, size)
        content = lowered.to_executorch().buffer
    path = Path(path)
    path.write_bytes(content)
    path.with_suffix('.json').write_text(to_json(metadata), encoding='utf-8')


def _check_delegated(graph: torch.fx.Graph, size: tuple[int, int]) -> None:
    """Raise a UserError if XNNPACK does not support all operators."""
    outside = Counter(
        getattr(node.target, '_name', str(node.target))
        for node in graph.nodes
        if node.op == 'call_function'
        and node.target is not operator.getitem
        and 'executorch_call_delegate' not in str(node.target)
    )
    if outside:
        found = ', '.join(f'{count} x {name}' for name, count in outside.items())
        raise UserError(
            f'XNNPACK does not support all operators of this model at {size[0]} x '
            f'{size[1]} (H x W): {found}. With an FPN, use sides that are multiples '
            'of 32.'
        )


def rewrite_for_xnnpack(program: ExportedProgram) -> ExportedProgram:
    """Rewrite a neck's upsampling and extra levels with operators of XNNPACK.

    XNNPACK has no nearest-neighbour upsampling, no max pooling with kernel size 1 and
    no tensors with more than four axes. The results are bit-identical. Operators with
    other arguments are left unchanged.

    Args:
        program (ExportedProgram): The program of a backbone with its neck.

    Returns:
        ExportedProgram: The rewritten program.
    """
    aten = torch.ops.aten
    return program.run_decompositions(
        {
            aten.upsample_nearest2d.vec: _upsample_twice,
            aten.max_pool2d.default: _subsample,
        }
    )


def _upsample_twice(
    x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Tensor:
    """Upsample by a factor of 2 (nearest neighbour) by repeating pixels."""
    batch, channels, height, width = x.shape
    if output_size is None:
        fits = list(scale_factors or ()) == [2.0, 2.0]
    else:
        fits = list(output_size) == [2 * height, 2 * width]
    if not fits:
        return NotImplemented
    x = _repeat_twice(x, (batch, channels * height, width, 1), 3)
    x = _repeat_twice(x, (batch, channels * height, 1, 2 * width), 2)
    return x.reshape(batch, channels, 2 * height, 2 * width)


def _repeat_twice(x: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    # XNNPACK's partitioner expects two different nodes to concatenate.
    return torch.cat([x.reshape(shape), x.reshape(shape)], dim)


def _subsample(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling with kernel size 1 and stride 2: every second row and column."""
    if {*kernel_size} != {1} or {*stride} != {2} or {*padding} != {0}:
        return NotImplemented
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, width % 2, 0, height % 2))
    rows, columns = -(-height // 2), -(-width // 2)
    x = x.reshape(batch, channels * rows, 2, 2 * columns).narrow(2, 0, 1)
    x = x.reshape(batch, channels * rows, columns, 2).narrow(3, 0, 1)
    return x.reshape(batch, channels, rows, columns)
