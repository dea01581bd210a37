"""The image files of a data set: there, whole, and as large as stated."""

import os
import os.path as osp
import warnings
from concurrent.futures import ThreadPoolExecutor

from PIL import Image
from tqdm import tqdm

from ..image_file import ImageFileError, image_size, read_image
from .annotations import AnnotationChecker


def check_images(
    checker: AnnotationChecker, decode: bool, workers: int | None, progress: bool
) -> None:
    """Read the image files of a split in parallel threads (the decoders let
    go of the interpreter's lock)."""
    split = checker.split

    def look(image: dict):
        path = osp.join(split.img_dir, image['file_name'])
        try:
            if decode:
                height, width = read_image(path).shape[:2]
            else:
                width, height = image_size(path)
        except ImageFileError as error:
            return image, path, str(error), None
        return image, path, '', (width, height)

    if workers is None:
        workers = max(8, 2 * (os.cpu_count() or 1))
    # Pillow's alarm at big pictures is for servers that fear uploads.
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        for image, path, reason, size in tqdm(
            pool.map(look, checker.images.values()),
            total=len(checker.images),
            desc=f'{split.name} images',
            disable=not progress,
            leave=decode,
            delay=0 if decode else 3,
            unit='image',
        ):
            used = image['id'] in checker.used
            name = f'image {image["id"]}'
            if reason:
                checker.add("image that can't be used", used, name, f'{path}: {reason}')
            elif size != (image['width'], image['height']):
                checker.add(
                    'image of another size than stated',
                    used,
                    name,
                    f'{path}: {size[0]} x {size[1]} (upright) instead '
                    f'of {image["width"]} x {image["height"]}',
                )
