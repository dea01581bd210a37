"""Import timm and MMPretrain where torchvision can't be installed."""

from benchmarks.backbones import torchvision_stand_in

import pytest


def import_with_stand_in(name):
    """Import a module with an empty torchvision; skip the test without the module."""
    with torchvision_stand_in():
        return pytest.importorskip(name)
