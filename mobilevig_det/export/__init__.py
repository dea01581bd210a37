"""Export detectors to ONNX, OpenVINO, ExecuTorch, Core ML and web pages.

``formats`` dispatches to one module for each format, after ``supported`` has checked
the detector; ``verification`` compares each file with the model; ``runtimes`` loads
exported files.
"""

from ..deprecation import moved_names
from .formats import FORMATS, check_part, check_size, new_files, verify, write
from .metadata import make_metadata
from .runtimes import Session, load
from .web import check_folder, find_ort_web

__all__ = [
    'FORMATS',
    'Session',
    'check_folder',
    'check_part',
    'check_size',
    'find_ort_web',
    'load',
    'make_metadata',
    'new_files',
    'verify',
    'write',
]

__getattr__ = moved_names(__name__)
