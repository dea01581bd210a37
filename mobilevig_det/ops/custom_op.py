"""Registering operators with PyTorch."""

from collections.abc import Callable, Sequence

import torch


def custom_op(name: str, mutates_args: Sequence[str] = ()) -> Callable:
    """Decorator: to ``torch.compile`` and ``torch.export`` the function is one
    operator, ``mobilevig_det::name``; before torch 2.4 it stays as it is.

    Args:
        name (str): Name of the operator.
        mutates_args (Sequence[str]): The arguments that it writes into.
    """
    if not hasattr(torch.library, 'custom_op'):
        return lambda function: function
    return torch.library.custom_op(f'mobilevig_det::{name}', mutates_args=mutates_args)
