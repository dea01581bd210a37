"""ExecuTorch files for XNNPACK: what Android and iOS run on their CPUs."""

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .fixed_size import check_fixed_size, exported
from .metadata import to_json
from .packages import needed
from .xnnpack_forms import in_xnnpack_forms


def write_executorch(
    model: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Write a .pte file that XNNPACK runs whole, in float32, and its metadata
    beside it, in a .json file of the same name.

    Args:
        model (nn.Module): From images (1, 3, H, W) to a tuple of maps.
        path (str | Path): Of the .pte file.
        size (tuple[int, int]): Height and width of the images.
        metadata (dict): From :func:`..metadata.make_metadata`.

    Raises:
        UserError: If XNNPACK lacks an operator, or there is no size.
    """
    needed('executorch')
    size = check_fixed_size(size, 'executorch')
    with _hushed():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            in_xnnpack_forms(exported(model, size)), partitioner=[XnnpackPartitioner()]
        )
        _check_delegated(lowered.exported_program().graph, size)
        content = lowered.to_executorch().buffer
    path = Path(path)
    path.write_bytes(content)
    path.with_suffix('.json').write_text(to_json(metadata), encoding='utf-8')


def _check_delegated(graph: torch.fx.Graph, size: tuple[int, int]) -> None:
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
            f'XNNPACK does not take all of this model at {size[0]} x {size[1]} '
            f'(H x W); it leaves out {found}. Sides that are multiples of 32 suit '
            'an FPN.'
        )


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what the exporter says of itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
