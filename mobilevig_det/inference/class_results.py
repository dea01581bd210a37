"""Rows of a classifier as one file, or as lines to print."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from ..io import atomic_write
from .coco_results import Summary
from .input_files import printable


def write_classes(
    path: str, rows: Iterable[dict], categories: Mapping[int, str], summary: Summary
) -> None:
    """Write a JSON list with a ``file_name`` and its ``classes``, each with a ``name``
    and a ``score``, an image at a time, whole or not at all.

    Args:
        path (str): The file.
        rows (Iterable[dict]): In the order of the inputs.
        categories (Mapping[int, str]): The names of the classes.
        summary (Summary): Counts the rows.

    Raises:
        OSError: If it can't be written; what was there before still is.
    """

    def write(part: str) -> None:
        with open(part, 'w', encoding='utf-8') as file:
            end = '['
            for row in _used(rows):
                summary.add(row)
                classes = [dict(name=n, score=s) for n, s in _named(row, categories)]
                item = dict(file_name=row['image'], classes=classes)
                text = textwrap.indent(json.dumps(item, indent=1), ' ')
                file.write(f'{end}\n{text}')
                end = ','
            file.write('[]' if end == '[' else '\n]')

    with atomic_write(path) as part:
        write(str(part))


def print_classes(rows: Iterable[dict], categories: Mapping[int, str]) -> None:
    """A line for each image that could be used."""
    for row in _used(rows):
        classes = ', '.join(f'{n} {s:.3f}' for n, s in _named(row, categories))
        print(printable(f'{row["image"]}: {classes}'))


def _used(rows: Iterable[dict]) -> Iterator[dict]:
    return (row for row in rows if row['error'] is None)


def _named(row: dict, categories: Mapping[int, str]) -> Iterator[tuple[str, float]]:
    return ((categories[id], score) for id, score in zip(row['labels'], row['scores']))
