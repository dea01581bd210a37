"""Registering operators with PyTorch."""

from collections.abc import Callable, Sequence

import torch


def custom_op(
    name: str, mutates_args: Sequence[str] = (), fake: Callable | None = None
) -> Callable:
    """Decorator: to ``torch.compile`` and ``torch.export`` the function is one
    operator, ``mobilevig_det::name``; before torch 2.4 it stays as it is.

    Args:
        name (str): Name of the operator.
        mutates_args (Sequence[str]): The arguments that it writes into.
        fake (Callable, optional): Gives empty results of the right shapes;
            needed if there are results.
    """

    def register(function: Callable) -> Callable:
        if not hasattr(torch.library, 'custom_op'):
            return function
        operator = torch.library.custom_op(
            f'mobilevig_det::{name}', function, mutates_args=mutates_args
        )
        if fake is not None:
            operator.register_fake(fake)
        return operator

    return register


def is_traced() -> bool:
    """Whether an exporter is looking, which wants plain operations."""
    return (
        torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or getattr(torch.compiler, 'is_exporting', bool)()
    )
