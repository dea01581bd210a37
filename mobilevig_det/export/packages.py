"""Packages that only exports need: the extra ``[export]``."""

import importlib
import os
from contextlib import AbstractContextManager
from unittest import mock

from ..errors import UserError


def needed(*names: str) -> None:
    """Raise a UserError that names the extra if a package is missing."""
    for name in names:
        try:
            with without_reports():
                importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f'This export needs the package {name}, which cannot be imported '
                f'({error}): pip install "mobilevig_det[export]"'
            ) from error


def without_reports() -> AbstractContextManager:
    """Keep OpenVINO and NNCF from reporting their use to their makers: they don't
    where the environment is a CI job's."""
    return mock.patch.dict(os.environ, CI='true')
