"""Detectors outside of PyTorch: ONNX, OpenVINO, phones and browsers, each file
compared with the model that it was made of."""

from .formats import FORMATS, check_part, check_size, prove, write
from .metadata import make_metadata
from .ort_web import find_ort_web
from .output import new_file
from .runtimes import Session, load
from .web_folder import check_folder

__all__ = [
    'FORMATS',
    'Session',
    'check_folder',
    'check_part',
    'check_size',
    'find_ort_web',
    'load',
    'make_metadata',
    'new_file',
    'prove',
    'write',
]
