"""Import timm and MMPretrain where torchvision can't be imported."""

import sys

from benchmarks.rivals import _StandIn

import pytest


def import_with_stand_in(name):
    """The module, or a skip where it is not installed."""
    stand_in = _StandIn()
    sys.meta_path.append(stand_in)  # Asked last: a real one comes first.
    try:
        return pytest.importorskip(name)
    finally:
        sys.meta_path.remove(stand_in)
        for module in [n for n in sys.modules if n.startswith('torchvision')]:
            spec = sys.modules[module].__spec__
            if spec and isinstance(spec.loader, _StandIn):
                del sys.modules[module]
