"""What exporters see of the siblings' graph steps."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from ..errors import UserError

DOMAIN = 'mobilevig_det'
_whole = ContextVar('whole', default=False)


@contextlib.contextmanager
def whole_steps() -> Iterator[None]:
    """Let a graph step of any size be exported to ONNX, as one operator of DOMAIN,
    which who exports writes in ONNX's own: how many links it has depends on the
    size."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def exported_step(
    naive: Callable[..., Tensor], x: Tensor, *arguments: Tensor, stride: int
) -> Tensor:
    """A graph step, link by link where the size is fixed.

    Args:
        naive (Callable): Its plain form, ``naive_...``; also the operator's name.
        x (Tensor): Of shape (B, C, H, W).
        arguments (Tensor): More of its inputs.
        stride (int): Its last one.

    Raises:
        UserError: If the size isn't fixed, outside of :func:`whole_steps`.
    """
    if not any(isinstance(side, torch.SymInt) for side in x.shape[-2:]):
        return naive(x, *arguments, stride)
    if not _whole.get():
        raise UserError(
            'The links of this backbone depend on the size of the images. '
            'tools/export.py writes ONNX and OpenVINO files for images of any size; '
            'all else is exported for one: leave height and width out of '
            "torch.export's dynamic shapes."
        )
    return torch.onnx.ops.symbolic(
        f'{DOMAIN}::{naive.__name__.removeprefix("naive_")}',
        (x, *arguments),
        dict(stride=stride),
        dtype=x.dtype,
        shape=x.shape,
        version=1,
    )
