"""The one result of a run, made of its rows."""

import os.path as osp
from collections.abc import Sequence

from ..errors import UserError
from .class_results import write_classes
from .coco_results import Summary, write_coco
from .parquet_results import write_parquet
from .row_files import SortedRows

FORMATS = {
    'coco': 'predictions.json',
    'classes': 'predictions.json',  # of a classifier
    'parquet': 'predictions.parquet',
}


def check_format(name: str) -> None:
    """Raise a UserError, before anything is done, if it can't be written here."""
    if name != 'parquet':
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--format parquet needs pyarrow ({error}): pip install pyarrow'
        ) from error


def write_result(
    out_dir: str,
    format: str,
    files: Sequence[str],
    categories: dict[int, str],
    image_ids: dict[str, int],
) -> tuple[str, Summary]:
    """Write one file, or folder, of all rows, whole or not at all.

    Args:
        out_dir (str): Where.
        format (str): One of ``FORMATS``.
        files (Sequence[str]): The files of rows.
        categories (dict[int, str]): The names of the classes, by id.
        image_ids (dict[str, int]): Of the test set's images, by their real paths.

    Returns:
        tuple[str, Summary]: What was written, and what is in it.

    Raises:
        OSError: If it can't be written.
    """
    path = osp.join(out_dir, FORMATS[format])
    rows, summary = SortedRows(files), Summary(categories)
    if format == 'parquet':
        write_parquet(path, rows, categories, summary)
    elif format == 'classes':
        write_classes(path, rows, categories, summary)
    else:
        write_coco(path, rows, categories, image_ids, summary)
    return path, summary
