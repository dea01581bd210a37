"""An annotation file: whether it is JSON, and its records are complete."""

import json

from .report import Add
from .splits import Split

# What isinstance takes.
Kind = type | tuple[type, ...]


def read_coco_file(split: Split, add: Add) -> dict | None:
    """The content of the file if it is worth looking into."""
    try:
        with open(split.ann_file, encoding='utf-8') as file:
            content = json.load(file)
    except OSError as error:
        add('cannot be read', True, detail=str(error.strerror))
        return None
    except UnicodeDecodeError:
        add('is not JSON', True, detail='it is not even text')
        return None
    except json.JSONDecodeError as error:
        at_end = not error.doc[error.pos :].strip() or (
            error.msg.startswith('Unterminated')
        )
        add(
            'is cut off, or empty' if at_end else 'is not JSON',
            True,
            detail=f'{error.msg} at line {error.lineno}, column '
            f'{error.colno} (character {error.pos} of {len(error.doc)})',
        )
        return None
    if not isinstance(content, dict):
        add(
            'is not a COCO annotation file',
            True,
            detail=f'it holds a {type(content).__name__}, not an object '
            'with "images", "annotations" and "categories"',
        )
        return None
    if not split.needs_annotations:
        content.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content.get(key), list):
            add(
                f'has no list "{key}"',
                True,
                detail=f'it has {", ".join(map(repr, content)) or "none"}',
            )
            return None
    return content


def has(record, name: str, keys: dict[str, Kind], add: Add) -> bool:
    """Whether a record is an object with these keys of these types."""
    if not isinstance(record, dict):
        add('is not an object', True, name, repr(record)[:60])
        return False
    for key, kind in keys.items():
        if key not in record:
            add(f'has no "{key}"', True, name)
            return False
        value = record[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            add(f'"{key}" is of the wrong type', True, name, repr(value)[:60])
            return False
    return True
