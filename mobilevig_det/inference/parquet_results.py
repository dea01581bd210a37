"""Rows as a folder of Parquet files."""

import json
import os
import os.path as osp
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice

from ..io import temporary_path
from .coco_results import Summary
from .detection_rows import arrow_schema, utf8

BATCH = 1000  # rows, which are in memory at once
BATCHES = 100  # in a file


def write_parquet(
    folder: str, rows: Iterable[dict], categories: dict[int, str], summary: Summary
) -> None:
    """Write a folder of Parquet files, a batch of rows at a time, whole or not at all.

    The columns are those of :func:`detection_rows.arrow_schema`; the classes' names
    by id are in the schema's metadata, under ``categories``, as JSON.

    Args:
        folder (str): It is replaced where it is there.
        rows (Iterable[dict]): Images and frames, and inputs that couldn't be used.
        categories (dict[int, str]): The names of the classes.
        summary (Summary): Counts the rows.

    Raises:
        OSError: If it can't be written; what was there before still is.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema().with_metadata({'categories': json.dumps(categories)})
    images = _table(rows, summary)
    part = temporary_path(folder)
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    try:
        number, batch = 0, None
        while batch is None or len(batch) == BATCH:
            path = osp.join(part, f'{number:05}.parquet')
            with pq.ParquetWriter(path, schema, compression='zstd') as writer:
                for _ in range(BATCHES):
                    batch = list(islice(images, BATCH))
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                    if len(batch) < BATCH:
                        break
            number += 1
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except BaseException:  # a Ctrl-C too
        shutil.rmtree(part, ignore_errors=True)
        raise


def _table(rows: Iterable[dict], summary: Summary) -> Iterator[dict]:
    """Without the rows of whole videos: what is found is in their frames'."""
    for row in rows:
        if row['width'] is not None or row['error'] is not None:
            summary.add(row)
            yield dict(row, image=utf8(row['image']))
