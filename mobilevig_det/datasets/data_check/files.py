"""Read annotation files and image files, and report those that can't be used."""

import json
import os
import os.path as osp
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..image_file import ImageFileError, image_size, read_image
from .config import Split
from .report import FileReport


class AnnotationFileError(ValueError):
    """An annotation file that can't be checked any further: (kind, detail)."""


def read_coco_file(split: Split) -> dict:
    """Read an annotation file.

    Args:
        split (Split): The data set.

    Returns:
        dict: The content, with the lists ``images``, ``annotations`` and
        ``categories``.

    Raises:
        AnnotationFileError: If it can't be read, or has no such lists.
    """
    try:
        with open(split.ann_file, encoding='utf-8') as file:
            content = json.load(file)
    except OSError as error:
        raise AnnotationFileError('cannot be read', str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise AnnotationFileError('is not JSON', 'it is not even text') from error
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].strip()
        is_cut_off = not rest or error.msg.startswith('Unterminated')
        raise AnnotationFileError(
            'is cut off, or empty' if is_cut_off else 'is not JSON',
            f'{error.msg} at line {error.lineno}, column {error.colno} '
            f'(character {error.pos} of {len(error.doc)})',
        ) from error
    if not isinstance(content, dict):
        raise AnnotationFileError(
            'is not a COCO annotation file',
            f'it holds a {type(content).__name__}, not an object with "images", '
            '"annotations" and "categories"',
        )
    if not split.needs_annotations:
        content.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content.get(key), list):
            found = ', '.join(map(repr, content)) or 'none'
            raise AnnotationFileError(f'has no list "{key}"', f'it has {found}')
    return content


def check_images(
    split: Split,
    images: Mapping[Any, dict],
    used: Collection,
    report: FileReport,
    decode: bool,
    workers: int | None,
    progress: bool,
) -> None:
    """Read the images of a data set in threads (decoders release the GIL).

    Args:
        split (Split): The data set.
        images (Mapping): COCO's image records by their ids.
        used (Collection): Ids of the images that will be loaded. What is wrong with
            others is tolerated.
        report (FileReport): Gets the findings.
        decode (bool): Whether to decode each image. If not, the beginning and the
            end of each file are read.
        workers (int | None): Number of threads. None is twice the number of cores,
            at least 8.
        progress (bool): Whether to show a progress bar.
    """

    def check(image: dict) -> tuple[str, str] | None:
        path = osp.join(split.img_dir, image['file_name'])
        try:
            size = read_image(path).shape[1::-1] if decode else image_size(path)
        except ImageFileError as error:
            return "image that can't be used", f'{path}: {error}'
        stated = image['width'], image['height']
        if size == stated:
            return None
        detail = '{} x {} (upright) instead of {} x {}'.format(*size, *stated)
        return 'image of another size than stated', f'{path}: {detail}'

    if workers is None:
        workers = max(8, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        # It is meant for servers that decode uploads.
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        findings = tqdm(
            pool.map(check, images.values()),
            total=len(images),
            desc=f'{split.name} images',
            disable=not progress,
            leave=decode,
            delay=0 if decode else 3,
            unit='image',
        )
        for finding, id in zip(findings, images):  # in this order the bar is closed
            if finding is not None:
                kind, detail = finding
                report.add(kind, id in used, f'image {id}', detail)
