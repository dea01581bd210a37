"""Data sets: loading, checks (in data_check), and data sets that are generated."""

from .data_paths import check_data_paths, leaf_datasets
from .image_file import ImageFileError, hush_opencv, read_image
from .shapes import make_shapes

__all__ = [
    'ImageFileError',
    'check_data_paths',
    'hush_opencv',
    'leaf_datasets',
    'make_shapes',
    'read_image',
]
