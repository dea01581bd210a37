"""Find what is wrong with a COCO-format data set before training does.

Every finding is of one of two sorts. Those that stop would end training with
an error, hang it, or teach the wrong thing: an annotated image that can't be
read, an RLE mask of another size, classes in another order. The others are
tolerated as MMDetection and pycocotools tolerate them: the box without area
is left out, the box that reaches outside is clipped.
"""

import json
import logging
import math
import os
import os.path as osp
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from .data_paths import leaf_datasets
from .image_file import ImageFileError, image_size, read_image

# Farther out, pycocotools draws polygons for minutes, or forever.
MAX_COORDINATE = 1e6
# Boxes that were rounded may reach over the edge by this much, in pixels.
EDGE_TOLERANCE = 1


class Split(NamedTuple):
    """What the checks need to know of one data set of a config."""

    name: str  # 'train', 'val' or 'test'
    ann_file: str
    img_dir: str
    classes: Sequence[str]
    trains: bool
    loads_masks: bool  # the pipeline decodes masks
    scores_masks: bool  # the evaluator compares masks
    needs_annotations: bool
    filter_empty: bool
    min_size: int
    scales: tuple  # (W, H) that the pipeline resizes to, keeping the ratio


class Finding(NamedTuple):
    kind: str  # what is wrong, the same for all of a kind
    stops: bool
    file: str
    record: str  # which one: 'annotation 17 (image 3)'
    detail: str

    def __str__(self) -> str:
        return ': '.join(
            part for part in (self.file, self.record, self.kind, self.detail) if part
        )


class DataReport:
    """The findings, in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(
        self, kind: str, stops: bool, file: str, record: str = '', detail: str = ''
    ) -> None:
        self.findings.append(Finding(kind, stops, file, record, detail))

    @property
    def stopping(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.stops]

    def by_kind(self) -> dict[tuple, list[Finding]]:
        """Findings by (stops, file, kind), those that stop first."""
        groups: dict[tuple, list[Finding]] = {}
        for finding in self.findings:
            key = (finding.stops, finding.file, finding.kind)
            groups.setdefault(key, []).append(finding)
        return dict(sorted(groups.items(), key=lambda item: not item[0][0]))


def splits_of(cfg: Config, names: Sequence[str]) -> Iterator[Split]:
    """The COCO-format data sets that a config's loaders read, each once."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    seen = set()
    for name in names:
        loader = cfg.get(f'{name}_dataloader')
        scored = [
            metric
            for evaluator in _evaluators(cfg, name)
            if not evaluator.get('format_only')
            for metric in np.atleast_1d(evaluator.get('metric', 'bbox'))
        ]
        for dataset_cfg in leaf_datasets(loader['dataset']) if loader else ():
            dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
            if not _reads_coco(dataset):
                print_log(
                    f'{name}: a {type(dataset).__name__} is not a '
                    'COCO-format set, and is not checked.',
                    level=logging.WARNING,
                )
                continue
            if '://' in dataset.ann_file:
                print_log(
                    f'{name}: {dataset.ann_file} is not on the file system, '
                    'and is not checked.',
                    level=logging.WARNING,
                )
                continue
            filter_cfg = (not dataset.test_mode and dataset.filter_cfg) or {}
            split = Split(
                name=name,
                ann_file=dataset.ann_file,
                img_dir=dataset.data_prefix.get('img') or '',
                classes=tuple(dataset.metainfo['classes']),
                trains=not dataset.test_mode,
                loads_masks=any(
                    getattr(transform, 'with_mask', False)
                    for transform in dataset.pipeline.transforms
                ),
                scores_masks='segm' in scored,
                needs_annotations=name == 'train' or bool(scored),
                filter_empty=bool(filter_cfg.get('filter_empty_gt')),
                min_size=filter_cfg.get('min_size', 0),
                scales=tuple(
                    tuple(transform.scale)
                    for transform in dataset.pipeline.transforms
                    if getattr(transform, 'keep_ratio', False)
                    and isinstance(transform.scale, (tuple, list))
                ),
            )
            if split[1:] not in seen:
                seen.add(split[1:])
                yield split


def _reads_coco(dataset) -> bool:
    """Whether it reads what CocoDataset reads; some of its subclasses, for
    panoptic segmentation or LVIS, have formats of their own."""
    return isinstance(dataset, CocoDataset) and all(
        getattr(type(dataset), name) is getattr(CocoDataset, name)
        for name in ('load_data_list', 'parse_data_info')
    )


def _evaluators(cfg: Config, name: str) -> list:
    evaluators = cfg.get(f'{name}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def check_data(
    cfg: Config,
    names: Sequence[str] = ('train', 'val', 'test'),
    decode: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> DataReport:
    """Check the data sets of a config.

    Args:
        cfg (Config): A whole config.
        names (Sequence[str]): Whose loaders: 'train', 'val', 'test'.
        decode (bool): Whether to decode every image. If not, the beginning
            and the end of each file are looked at. Defaults to True.
        workers (int, optional): Threads that read images. Defaults to None:
            twice the number of cores, at least 8.
        progress (bool): Whether to show a progress bar. Defaults to True.

    Returns:
        DataReport: All that was found; nothing on a clean set.
    """
    report = DataReport()
    _check_heads(cfg, report)
    checkers = []
    for split in splits_of(cfg, names):
        checker = AnnotationChecker(split, report)
        checker.check()
        _check_images(checker, report, decode, workers, progress)
        checkers.append(checker)
    for name in names:
        _check_evaluators(
            cfg, name, [c for c in checkers if c.split.name == name], report
        )
    return report


def check_before_training(cfg: Config) -> None:
    """The checks of :func:`check_data` that take seconds to a minute, on one
    process of a run.

    Raises:
        UserError: If training would not survive the data. It names the first
            files and records; tools/check_data.py lists all.
    """
    if int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0):
        return
    report = check_data(cfg, ('train', 'val'), decode=False)
    hint = f'tools/check_data.py {cfg.filename} lists everything'
    if report.stopping:
        lines = [
            'Training would fail on this data, or learn something wrong '
            f'({len(report.stopping)} in all; {hint}):'
        ]
        lines += [f'  {finding}' for finding in report.stopping[:5]]
        raise UserError('\n'.join(lines))
    if report.findings:
        kinds = Counter(finding.kind for finding in report.findings)
        print_log(
            'Tolerated in the data, as COCO tools do ('
            f'{hint}): '
            + '; '.join(f'{count} × {kind}' for kind, count in kinds.items()),
            logger='current',
            level=logging.WARNING,
        )


@contextmanager
def pointing_to_check_data(cfg: Config) -> Iterator[None]:
    """Around a run: if loading data ends it after all, say what to run.

    Raises:
        UserError: Instead of what came out of the data sets. The stack is
            printed first, since it may be a pipeline of one's own that fails.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = ('mmengine/dataset', 'mmdet/datasets', 'mmcv/transforms')
        if 'DataLoader worker' not in str(error) and not any(
            place in Path(frame.filename).as_posix()
            for frame in frames
            for place in places
        ):
            raise
        traceback.print_exc()
        raise UserError(
            f'Loading the data failed. tools/check_data.py {cfg.filename} '
            'looks for everything that may be wrong with it.'
        ) from error


class AnnotationChecker:
    """Check one annotation file; remember what the images must be like.

    Attributes:
        images (dict): Sound image records by their ids.
        used (set): Ids of the images that will be read.
        rle_images (set): Ids of the images with RLE masks.
    """

    def __init__(self, split: Split, report: DataReport) -> None:
        self.split = split
        self.report = report
        self.file = f'{split.name}: {split.ann_file}'
        self.images: dict[int, dict] = {}
        self.used: set[int] = set()
        self.rle_images: set[int] = set()

    def add(self, kind, stops, record='', detail=''):
        self.report.add(kind, stops, self.file, record, detail)

    def check(self) -> None:
        content = self._load()
        if content is None:
            return
        self._check_categories(content['categories'])
        self._check_image_records(content['images'])
        self._check_annotations(content['annotations'])
        self._check_what_is_left(content['annotations'])

    def _load(self) -> dict | None:
        """The content of the file if it is worth looking into."""
        try:
            with open(self.split.ann_file, encoding='utf-8') as file:
                content = json.load(file)
        except OSError as error:
            self.add('cannot be read', True, detail=str(error.strerror))
            return None
        except UnicodeDecodeError:
            self.add('is not JSON', True, detail='it is not even text')
            return None
        except json.JSONDecodeError as error:
            at_end = not error.doc[error.pos :].strip() or (
                error.msg.startswith('Unterminated')
            )
            self.add(
                'is cut off, or empty' if at_end else 'is not JSON',
                True,
                detail=f'{error.msg} at line {error.lineno}, column '
                f'{error.colno} (character {error.pos} of {len(error.doc)})',
            )
            return None
        if not isinstance(content, dict):
            self.add(
                'is not a COCO annotation file',
                True,
                detail=f'it holds a {type(content).__name__}, not an object '
                'with "images", "annotations" and "categories"',
            )
            return None
        if not self.split.needs_annotations:
            content.setdefault('annotations', [])
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(content.get(key), list):
                self.add(
                    f'has no list "{key}"',
                    True,
                    detail=f'it has {", ".join(map(repr, content)) or "none"}',
                )
                return None
        return content

    def _has(self, record, name: str, keys: dict[str, type]) -> bool:
        """Whether a record is an object with these keys of these types."""
        if not isinstance(record, dict):
            self.add('is not an object', True, name, repr(record)[:60])
            return False
        for key, kind in keys.items():
            if key not in record:
                self.add(f'has no "{key}"', True, name)
                return False
            value = record[key]
            if not isinstance(value, kind) or isinstance(value, bool):
                self.add(f'"{key}" is of the wrong type', True, name, repr(value)[:60])
                return False
        return True

    def _check_categories(self, categories: list) -> None:
        names: list[str] = []
        ids: set[int] = set()
        for i, category in enumerate(categories):
            name = f'categories[{i}]'
            if not self._has(category, name, dict(id=int, name=str)):
                continue
            if category['id'] in ids:
                self.add('duplicate category id', True, name, str(category['id']))
            if category['name'] in names:
                self.add('duplicate category name', True, name, repr(category['name']))
            ids.add(category['id'])
            names.append(category['name'])
        self.category_ids = ids
        self.class_ids = {
            category['id']
            for category in categories
            if isinstance(category, dict)
            and 'id' in category
            and category.get('name') in self.split.classes
        }
        # MMDetection numbers the labels in the order of the file, whatever
        # the order of the classes in the config.
        classes = list(self.split.classes)
        found = [name for name in names if name in classes]
        missing = [name for name in classes if name not in found]
        advice = (
            'Set metainfo=dict(classes=(…)) of the data set to names '
            'of the file, in its order: ' + _some(names)
        )
        if not found:
            self.add(
                "none of the config's classes is in the file",
                True,
                detail=f'{_some(classes)}. {advice}',
            )
        elif found != classes[: len(found)]:
            self.add(
                "the config's classes do not match the file's",
                True,
                detail=(
                    f'missing there: {_some(missing)}. '
                    if missing
                    else 'they are in another order. '
                )
                + advice,
            )
        elif missing:
            self.add(
                'classes of the config that the file lacks',
                False,
                detail=_some(missing),
            )

    def _check_image_records(self, images: list) -> None:
        keys = dict(id=(int, str), file_name=str, width=int, height=int)
        files: set[str] = set()
        for i, image in enumerate(images):
            name = f'images[{i}]'
            if isinstance(image, dict) and 'id' in image:
                name = f'image {image["id"]}'
            if not self._has(image, name, keys):
                continue
            if image['id'] in self.images:
                self.add('duplicate image id', True, name, image['file_name'])
                continue
            if image['width'] < 1 or image['height'] < 1:
                self.add('no size', True, name, f'{image["width"]} x {image["height"]}')
                continue
            if image['file_name'] in files:
                self.add(
                    'listed twice under different ids', False, name, image['file_name']
                )
            files.add(image['file_name'])
            self.images[image['id']] = image

    def _check_annotations(self, annotations: list) -> None:
        keys = dict(
            id=(int, str),
            image_id=(int, str),
            category_id=int,
            bbox=list,
            area=(int, float),
        )
        ids: set[int] = set()
        self.annotated: set[int] = set()
        self.kept = 0
        for i, ann in enumerate(annotations):
            name = f'annotations[{i}]'
            if isinstance(ann, dict) and 'id' in ann:
                name = (
                    f'annotation {ann["id"]} (image {ann.get("image_id", "unknown")})'
                )
            if not self._has(ann, name, keys):
                continue
            if ann['id'] in ids:
                self.add('duplicate annotation id', True, name)
            elif ann['id'] == 0 and not self.split.trains:
                # It marks its matches by the id, and 0 means none.
                self.add(
                    'annotation id 0: pycocotools counts what is found of it as false',
                    False,
                    name,
                )
            ids.add(ann['id'])
            image = self.images.get(ann['image_id'])
            if image is None:
                self.add('of an image that is not in the file', False, name)
                continue
            if ann['category_id'] not in self.class_ids:
                self.add(
                    'of a class that is not in the config'
                    if ann['category_id'] in self.category_ids
                    else 'of a category that is not in the file',
                    False,
                    name,
                    f'category_id {ann["category_id"]}',
                )
                continue
            self.annotated.add(ann['image_id'])
            kept = self._check_box(ann, image, name)
            self.kept += kept
            # What the data set drops, the evaluator still looks at.
            if kept and self.split.loads_masks or self.split.scores_masks:
                self._check_mask(ann, image, name, kept)

    def _check_box(self, ann: dict, image: dict, name: str) -> bool:
        """Whether MMDetection keeps the annotation."""
        box, area = ann['bbox'], ann['area']
        if len(box) != 4 or not _are_sound(box) or not _are_sound([area]):
            self.add(
                'the box or its area is not of finite numbers',
                True,
                name,
                f'bbox {repr(box)[:80]}, area {area!r}',
            )
            return False
        if ann.get('ignore'):
            return False
        x, y, w, h = box
        width, height = image['width'], image['height']
        detail = f'bbox {box}, image {width} x {height}'
        if w < 1 or h < 1 or area <= 0:
            self.add(
                'box or object of no area', False, name, f'bbox {box}, area {area}'
            )
            return False
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.add('box outside the image', False, name, detail)
            return False
        if max(-x, -y, x + w - width, y + h - height) > EDGE_TOLERANCE:
            self.add('box reaches outside the image', False, name, detail)
        return True

    def _check_mask(self, ann: dict, image: dict, name: str, kept: bool) -> None:
        mask = ann.get('segmentation')
        if not mask:
            self.add('has no "segmentation"', True, name, 'the model learns masks')
        elif isinstance(mask, dict):
            self.rle_images.add(ann['image_id'])
            self._check_rle(mask, image, name)
        elif isinstance(mask, list):
            self._check_polygons(mask, image, name)
        else:
            self.add(
                '"segmentation" is neither polygons nor RLE',
                True,
                name,
                repr(mask)[:60],
            )

    def _check_rle(self, mask: dict, image: dict, name: str) -> None:
        size, counts = mask.get('size'), mask.get('counts')
        expected = [image['height'], image['width']]
        if not isinstance(counts, (list, str)) or not isinstance(size, list):
            self.add('RLE mask without "size" or "counts"', True, name)
        elif size != expected:
            self.add(
                'RLE mask of another size than its image',
                True,
                name,
                f'{size} instead of {expected} (height, width)',
            )
        elif rle_area(counts) != size[0] * size[1]:
            # pycocotools reads on past its end, or refuses it.
            self.add(
                'RLE mask that does not fill its size',
                True,
                name,
                f'{rle_area(counts)} pixels instead of {size[0]} * {size[1]}',
            )

    def _check_polygons(self, mask: list, image: dict, name: str) -> None:
        if not all(
            isinstance(polygon, list) and _are_sound(polygon) for polygon in mask
        ):
            self.add(
                'polygon that is not a list of finite numbers',
                True,
                name,
                repr(mask)[:80],
            )
            return
        short = [polygon for polygon in mask if len(polygon) < 6 or len(polygon) % 2]
        if not short:
            return
        kind = (
            'polygon of two points or fewer'
            if len(short[0]) < 6
            else 'polygon with an odd number of coordinates'
        )
        stops = False
        if self.split.scores_masks:
            # MMDetection leaves such polygons out; pycocotools may not.
            try:
                mask_utils.frPyObjects(mask, image['height'], image['width'])
            except Exception:
                stops = True
        self.add(
            kind, stops, name, repr(short[0]) + (' (pycocotools fails on it)' * stops)
        )

    def _check_what_is_left(self, annotations: list) -> None:
        split = self.split
        if not self.images:
            self.add('has no images', True)
        elif split.needs_annotations and not annotations:
            self.add('has no annotations', split.trains)
        for id_, image in self.images.items():
            if split.filter_empty and id_ not in self.annotated:
                continue
            if min(image['width'], image['height']) < split.min_size:
                self.add(
                    f'image left out: a side under {split.min_size} pixels',
                    False,
                    f'image {id_}',
                    f'{image["file_name"]}, {image["width"]} x {image["height"]}',
                )
                continue
            self.used.add(id_)
            size = image['width'], image['height']
            for scale in split.scales:
                width, height = mmcv.rescale_size(size, scale)
                if min(width, height) < 1:
                    self.add(
                        'image too narrow for the pipeline',
                        True,
                        f'image {id_}',
                        f'{image["file_name"]}, {size[0]} x '
                        f'{size[1]}, would be resized to {width} x {height} '
                        'pixels',
                    )
        if (
            self.images
            and annotations
            and split.trains
            and not (self.used and self.kept)
        ):
            self.add(
                'nothing is left to train on',
                True,
                detail=f'of {len(self.images)} images and '
                f'{len(annotations)} annotations',
            )


def _check_images(
    checker: AnnotationChecker,
    report: DataReport,
    decode: bool,
    workers: int | None,
    progress: bool,
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
                report.add(
                    "image that can't be used",
                    used,
                    checker.file,
                    name,
                    f'{path}: {reason}',
                )
            elif size != (image['width'], image['height']):
                report.add(
                    'image of another size than stated',
                    used,
                    checker.file,
                    name,
                    f'{path}: {size[0]} x {size[1]} (upright) instead '
                    f'of {image["width"]} x {image["height"]}',
                )


def _check_evaluators(
    cfg: Config, name: str, checkers: list[AnnotationChecker], report: DataReport
) -> None:
    """Look whether the evaluator knows the images of its data set: to change
    the file of the one and not of the other is easily done."""
    if not checkers:
        return
    for evaluator in _evaluators(cfg, name):
        path = evaluator.get('ann_file')
        if (
            not path
            or '://' in path
            or evaluator.get('type') != 'CocoMetric'
            or osp.realpath(path)
            in {osp.realpath(checker.split.ann_file) for checker in checkers}
        ):
            continue
        place = f'{name}_evaluator.ann_file={path}'
        try:
            with open(path, encoding='utf-8') as file:
                known = {image['id'] for image in json.load(file)['images']}
        except (OSError, ValueError, LookupError, TypeError) as error:
            report.add(
                'cannot be read', True, place, '', f'{type(error).__name__}: {error}'
            )
            continue
        unknown = [
            id_ for checker in checkers for id_ in checker.images if id_ not in known
        ]
        if unknown:
            report.add(
                'lacks images of the data set that it is to evaluate',
                True,
                place,
                '',
                f'{len(unknown)}, such as image {unknown[0]}',
            )


def _check_heads(cfg: Config, report: DataReport) -> None:
    """Compare the heads' number of classes with the training set's."""
    loader = cfg.get('train_dataloader')
    if not loader:
        return
    splits = list(splits_of(cfg, ['train']))
    counts = {len(split.classes) for split in splits}
    if len(counts) != 1:
        return
    expected = counts.pop()
    for name, head in _heads(cfg.get('model') or {}, 'model'):
        if head.get('num_classes', expected) != expected:
            report.add(
                'another number of classes than the data',
                True,
                cfg.filename or 'config',
                name,
                f'num_classes={head["num_classes"]}, but the training set '
                f'has {expected}: {_some(splits[0].classes)}',
            )


def _heads(model, path: str) -> Iterator[tuple]:
    if isinstance(model, dict):
        for key, value in model.items():
            if key in ('bbox_head', 'mask_head'):
                heads = value if isinstance(value, list) else [value]
                for head in heads:
                    if isinstance(head, dict):
                        yield f'{path}.{key}', head
            yield from _heads(value, f'{path}.{key}')


def _are_sound(values: list) -> bool:
    """Whether all are numbers, none of them infinite or absurdly large."""
    try:
        return not values or (
            math.isfinite(sum(values))
            and max(values) < MAX_COORDINATE
            and min(values) > -MAX_COORDINATE
        )
    except TypeError:
        return False


def rle_area(counts) -> int:
    """The number of pixels, of both values, that COCO's run lengths cover.

    Args:
        counts (list[int] | str): The plain or the compressed form.

    Returns:
        int: The number; -1 if they are not run lengths at all.

    pycocotools itself does not check it: it decodes lengths that don't fill
    the mask to whatever the memory held.
    """
    if isinstance(counts, str):
        # As in pycocotools' maskApi.c (rleFrString): six bits a character
        # from '0' on, of which five are the number's, lowest first, and one
        # says that there is more; from the fourth on, a number is the
        # difference to the last but one.
        codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
        if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
            return -1
        last = np.flatnonzero(codes & 32 == 0)
        first = np.concatenate([[0], last[:-1] + 1])
        digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
        if digit.max() > 7:
            return -1
        lengths = np.add.reduceat((codes & 31) << 5 * digit, first)
        negative = codes[last] & 16 != 0
        lengths = lengths - (negative << 5 * (last - first + 1))
        lengths[1::2] = lengths[1::2].cumsum()
        lengths[2::2] = lengths[2::2].cumsum()
    else:
        try:
            lengths = np.asarray(counts, dtype=np.float64)
        except (TypeError, ValueError):
            return -1
    if lengths.ndim != 1 or (lengths < 0).any() or not np.isfinite(lengths).all():
        return -1
    return int(lengths.sum())


def _some(names: Sequence[str], number: int = 8) -> str:
    """The first names, and how many more there are."""
    text = ', '.join(map(repr, names[:number])) or 'none'
    more = len(names) - number
    return text + (f', … ({more} more)' if more > 0 else '')
