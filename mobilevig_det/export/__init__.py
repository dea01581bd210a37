"""Detectors outside of PyTorch: ONNX, OpenVINO and phones, each file compared
with the model that it was made of."""

from .formats import FORMATS, check_part, check_size, prove, write
from .metadata import make_metadata
from .output import new_file
from .runtimes import Session, load

__all__ = [
    'FORMATS',
    'Session',
    'check_part',
    'check_size',
    'load',
    'make_metadata',
    'new_file',
    'prove',
    'write',
]
