"""Read annotation files and images, as MMDetection does, and report what fails."""

import json
import os
import os.path as osp
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import get_local_path
from PIL import Image
from tqdm import tqdm

from ..data_paths import is_on_disk
from ..image_file import ImageFileError, check_regular_file, image_size, read_image
from .annotations import AnnotationChecker
from .config import Split, are_known, loads_like_coco

# Images that run through the pipeline in a quick check: if their files have been looked
# at already, and if not.
FEW, SOME = 16, 64


class AnnotationFileError(ValueError):
    """An annotation file that can't be checked any further: (kind, detail)."""


def read_coco_file(split: Split) -> dict:
    """Read an annotation file through its file backend.

    Args:
        split (Split): What reads the file.

    Returns:
        dict: The content, with the lists ``images``, ``annotations`` and
        ``categories``.

    Raises:
        AnnotationFileError: If it can't be read, or has no such lists.
    """
    try:
        with get_local_path(split.ann_file, backend_args=split.backend_args) as path:
            check_regular_file(path)
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].strip()
        is_cut_off = not rest or error.msg.startswith('Unterminated')
        raise AnnotationFileError(
            'is cut off, or empty' if is_cut_off else 'is not JSON',
            f'{error.msg} at line {error.lineno}, column {error.colno} '
            f'(character {error.pos} of {len(error.doc)})',
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationFileError('is not JSON', 'it is not even text') from error
    except RecursionError as error:
        detail = 'its lists or objects are nested too deeply'
        raise AnnotationFileError('cannot be read', detail) from error
    except Exception as error:  # of any file backend; a number of too many digits
        detail = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'
        raise AnnotationFileError('cannot be read', detail) from error
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


class ImageChecker:
    """Load the images of a data set.

    Image files on the disk that OpenCV decodes are looked at one by one. Others, which
    a file backend or a transform of the user's own reads, are loaded by the pipeline.

    Args:
        checker (AnnotationChecker): What was read from the annotation file. Findings
            about images that it doesn't use are tolerated.
        decode (bool): Whether to load all images. If not, only the beginning and the
            end of each file are read, and the pipeline loads a sample.
        workers (int | None): Number of threads. None is twice the number of cores,
            at least 8.
        progress (bool): Whether to show a progress bar.
    """

    def __init__(
        self,
        checker: AnnotationChecker,
        decode: bool,
        workers: int | None,
        progress: bool,
    ) -> None:
        self.checker = checker
        self.split, self.report = checker.split, checker.report
        self.dataset: Any = checker.split.dataset
        self.decode = decode
        self.workers = workers or max(8, 2 * (os.cpu_count() or 1))
        self.progress = progress
        loads: Any = next(iter(self.split.transforms), None)
        self.is_stock = type(loads) is LoadImageFromFile
        # It takes another image instead of one that it cannot read.
        self.may_fail = getattr(loads, 'ignore_empty', False)
        self.are_files = (
            self.is_stock
            and loads.file_client_args is None
            and is_on_disk(self.split.img_dir, loads.backend_args)
            and loads.imdecode_backend == 'cv2'
            and loads.color_type in ('color', 'grayscale')
        )

    def check(self) -> None:
        """Look at the files, if they are some, and run the pipeline."""
        images, used = self.checker.images, self.checker.used
        failed: set = set()
        if self.are_files:
            failed = self._run(self._check_file, images)
        if self.report.stops:
            return  # the pipeline may fail on it in any way
        sound = {id: image for id, image in used.items() if id not in failed}
        if not loads_like_coco(self.dataset):
            self.report.skip(
                'the data set loads images in a way of its own: the pipeline was not '
                'run on them'
            )
            return
        number = FEW if self.are_files else SOME
        if self.are_files or not self.decode:
            sound = dict(list(sound.items())[:: max(1, -(-len(sound) // number))])
        ids = list(self.checker.class_ids)
        self.dataset.cat_ids = ids
        self.dataset.cat2label = {id: i for i, id in enumerate(ids)}
        steps = self._loading_steps()
        self._run(partial(self._check_loading, steps), sound, are_known(steps))
        if not self.are_files and len(sound) < len(used):
            text = (
                f'{len(sound)} of {len(used)} images were loaded, through the pipeline'
            )
            self.report.skip(text)

    def _run(
        self,
        check: Callable[[Any, dict], tuple[str, bool, str] | None],
        images: Mapping[Any, dict],
        threads: bool = True,
    ) -> set:
        """Check images in threads (decoders release the GIL); return the bad ones."""
        failed = set()
        workers = self.workers if threads else 1
        with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
            # It is meant for servers that decode uploads.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            findings: Iterable = tqdm(
                pool.map(check, images, images.values()),
                total=len(images),
                desc=f'{self.split.name} images',
                disable=not self.progress,
                leave=self.decode,
                delay=0 if self.decode else 3,
                unit='image',
            )
            for finding, id in zip(findings, images):  # in this order the bar is closed
                if finding is not None:
                    kind, stops, detail = finding
                    stops &= id in self.checker.used and not self.may_fail
                    self.report.add(kind, stops, f'image {id}', detail)
                    failed.add(id)
        return failed

    def _check_file(self, id, image: dict) -> tuple[str, bool, str] | None:
        path = osp.join(self.split.img_dir, image['file_name'])
        try:
            size = read_image(path).shape[1::-1] if self.decode else image_size(path)
        except ImageFileError as error:
            advice = ': write "/" for "\\" in its name' if '\\' in path else ''
            return "image that can't be used", True, f'{path}: {error}{advice}'
        return self._check_size(path, size, image)

    def _check_size(self, path: str, size, image: dict) -> tuple[str, bool, str] | None:
        stated = image['width'], image['height']
        if tuple(size) == stated:
            return None
        detail = '{} x {} (upright) instead of {} x {}'.format(*size, *stated)
        # A loader of the user's own may resize.
        kind = 'image of another size than stated'
        return kind, self.is_stock, f'{path}: {detail}'

    def _loading_steps(self) -> list:
        """Return the steps of the pipeline that load the image and its objects."""
        steps, names = list(self.split.transforms), ('with_bbox', 'with_mask')
        last = max(
            (i for i, step in enumerate(steps) if any(map(vars(step).get, names))),
            default=0,
        )
        return steps[: last + 1]

    def _check_loading(
        self, steps: list, id, image: dict
    ) -> tuple[str, bool, str] | None:
        path = image['file_name']
        try:
            results = self.dataset.parse_data_info(
                dict(
                    raw_img_info=dict(image, img_id=id),
                    raw_ann_info=self.checker.annotations.get(id, []),
                )
            )
            path = str(results['img_path'])
            if is_on_disk(path) and osp.exists(path) and not osp.isdir(path):
                check_regular_file(path)
            results['sample_idx'] = 0
            for step in steps:
                results = step(results)
                if results is None:
                    return None  # MMDetection takes another image
        except Exception as error:
            detail = f'{path}: {type(error).__name__}: {error}'
            return 'image that the pipeline cannot load', True, detail
        shape = results.get('ori_shape')
        if shape is None or self.are_files:
            return None
        return self._check_size(path, shape[1::-1], image)
