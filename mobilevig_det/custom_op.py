"""Support for compilers, tracers and exporters.

This module registers operators with PyTorch, detects tracing, and represents graph
steps of dynamic size for the ONNX export in :mod:`.export`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import torch
import torch.fx
from torch import Tensor

from .errors import UserError

DOMAIN = 'mobilevig_det'
_symbolic = ContextVar('symbolic', default=False)


def custom_op(
    name: str, mutates_args: Sequence[str] = (), fake: Callable | None = None
) -> Callable:
    """Register a function with PyTorch as the operator ``mobilevig_det::name``.

    ``torch.compile`` and ``torch.export`` treat the operator as opaque. Before torch
    2.4, the function is returned unchanged.

    Args:
        name (str): Name of the operator.
        mutates_args (Sequence[str]): Names of the arguments that it writes to.
        fake (Callable, optional): Returns empty results of the right shapes and
            dtypes. Required if the function returns anything.

    Returns:
        Callable: The decorator.
    """

    def register(function: Callable) -> Callable:
        if not hasattr(torch.library, 'custom_op'):
            return function
        operator = torch.library.custom_op(
            f'{DOMAIN}::{name}', function, mutates_args=mutates_args
        )
        if fake is not None:
            operator.register_fake(fake)
        return operator

    return register


def graph_node(plain: Callable | None = None) -> Callable:
    """Decorate a function of a tensor, so that ``torch.fx`` records it as one node.

    FX can't trace code that depends on a tensor's size, device or dtype. The node calls
    the function when the graph runs, so that the results are identical.

    Args:
        plain (Callable, optional): Function that TorchScript compiles instead, see
            :func:`scriptable`. Defaults to None: the function itself.

    Returns:
        Callable: The decorator. Calls with tensors are not affected.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(x, *args, **kwargs):
            if isinstance(x, torch.fx.Proxy):
                args = (x, *args)
                return x.tracer.create_proxy('call_function', call, args, kwargs)
            return function(x, *args, **kwargs)

        call.plain = plain or function  # type: ignore[attr-defined]
        return call

    return decorate


def scriptable(module: torch.nn.Module) -> torch.fx.GraphModule:
    """Return a module as a graph that ``torch.jit.script`` compiles, for any size.

    The graph shares the module's weights. ``train()`` and ``eval()`` still affect its
    submodules.

    Args:
        module (nn.Module): A module that ``torch.fx`` can trace.

    Returns:
        GraphModule: The graph.
    """
    graph = torch.fx.symbolic_trace(module)
    for node in graph.graph.nodes:
        node.target = getattr(node.target, 'plain', node.target)
    graph.recompile()
    return graph


def is_traced() -> bool:
    """Return whether an exporter or tracer, which needs plain operations, is active."""
    return (
        torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or getattr(torch.compiler, 'is_exporting', bool)()
    )


def is_traced_or_compiled() -> bool:
    """Return whether an exporter, a tracer or ``torch.compile`` is active."""
    compiling = getattr(torch.compiler, 'is_compiling', bool)  # torch >= 2.2
    return is_traced() or compiling()


@contextlib.contextmanager
def symbolic_graph_steps() -> Iterator[None]:
    """Export graph steps of dynamic size to ONNX, each as one operator of ``DOMAIN``.

    The number of links of a graph step depends on the size, so that the exporter can't
    unroll the step. The caller replaces these operators with standard ones.

    Yields:
        None
    """
    token = _symbolic.set(True)
    try:
        yield
    finally:
        _symbolic.reset(token)


def export_graph_step(
    naive: Callable[..., Tensor], x: Tensor, *arguments: Tensor, stride: int
) -> Tensor:
    """Compute a graph step during an export.

    A step of fixed size is unrolled link by link. A step of dynamic size becomes one
    operator of the graph.

    Args:
        naive (Callable): Plain implementation of the step, whose name is ``naive_``
            followed by the name of the operator.
        x (Tensor): Feature map of shape (B, C, H, W).
        *arguments (Tensor): Further inputs of the step.
        stride (int): Distance K between neighbours, in pixels; the last input.

    Returns:
        Tensor: Result with the shape and dtype of ``x``.

    Raises:
        UserError: If the size is dynamic outside of :func:`symbolic_graph_steps`.
    """
    if not any(isinstance(side, torch.SymInt) for side in x.shape[-2:]):
        return naive(x, *arguments, stride)
    if not _symbolic.get():
        raise UserError(
            'The graph links of this backbone depend on the size of the images. '
            'tools/export.py writes ONNX and OpenVINO files for images of any size. '
            'Other formats are exported for one size: leave height and width out of '
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
