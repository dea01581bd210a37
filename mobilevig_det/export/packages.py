"""Packages that only exports need: the extra ``[export]``."""

import importlib

from ..errors import UserError


def needed(*names: str) -> None:
    """Raise a UserError that names the extra if a package is missing."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f'This export needs the package {name}, which cannot be imported '
                f'({error}): pip install "mobilevig_det[export]"'
            ) from error
