"""Check the records of a COCO annotation file, and what is left of them to train on."""

from collections import Counter
from collections.abc import Callable, Mapping

import mmcv

from .config import Split
from .report import FileReport, first_few, short
from .segmentations import MAX_COORDINATE, are_numbers, mask_problem

# Rounded boxes may reach outside the image by this much, in pixels.
EDGE_TOLERANCE = 1
MAX_AREA = MAX_COORDINATE**2


def id_kind(value) -> type | None:
    """Return int or str for a value that may be an id, None for any other.

    Integers have 64 bits: NumPy, which pycocotools sorts them with, has no longer ones.
    A whole float equals the integer, for Python and so for MMDetection.
    """
    if isinstance(value, str):
        return str
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or isinstance(value, float) and value.is_integer():
        return int if abs(value) < 2**63 else None
    return None


def _is_side(value) -> bool:
    return id_kind(value) is int and abs(value) < MAX_COORDINATE


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_flag(value) -> bool:
    """Whether a flag means the same to everybody. Any text is true to MMDetection."""
    return value is None or isinstance(value, (int, float)) and value in (0, 1)


Schema = Mapping[str, Callable]
CATEGORY: Schema = dict(id=id_kind, name=_is_text)
IMAGE: Schema = dict(id=id_kind, file_name=_is_text, width=_is_side, height=_is_side)
ANNOTATION_IDS: Schema = dict(id=id_kind, image_id=id_kind, category_id=id_kind)
OBJECT: Schema = dict(
    bbox=lambda value: isinstance(value, list),
    area=lambda value: type(value) in (int, float),
)


class AnnotationChecker:
    """Check an annotation file.

    Args:
        split (Split): What reads the file.
        report (FileReport): Gets the findings.

    Attributes:
        images (dict): Sound image records by their ids.
        used (dict): Those that will be loaded.
        annotations (dict): Annotations by the id of their image.
    """

    def __init__(self, split: Split, report: FileReport) -> None:
        self.split = split
        self.report = report
        self.images: dict[int | str, dict] = {}
        self.used: dict[int | str, dict] = {}
        self.annotations: dict[int | str, list[dict]] = {}
        self.class_ids: dict[int | str, str] = {}  # names, in the order of the file
        self._category_ids: set[int | str] = set()
        self._annotated: set[int | str] = set()  # ids of images
        self._kinds: dict[str, type | None] = {}  # of ids
        self._objects: Counter[str] = Counter()  # to learn or to find, by class
        self._crowds = 0

    def check(self, content: dict) -> None:
        """Check the content of the file, and fill the attributes."""
        self._check_categories(content['categories'])
        self._check_images(content['images'])
        self._check_annotations(content['annotations'])
        self._check_what_is_left(content['categories'], len(content['annotations']))

    def _fits(self, record, name: str, schema: Schema) -> bool:
        """Check that a record is an object with these keys, of valid values."""
        if not isinstance(record, dict):
            self.report.error('is not an object', name, short(record))
            return False
        for key, is_valid in schema.items():
            if key not in record:
                self.report.error(f'has no "{key}"', name)
                return False
            if not is_valid(record[key]):
                kind = f'"{key}" is of the wrong type, or out of range'
                self.report.error(kind, name, short(record[key]))
                return False
        return True

    def _is_of_one_kind(self, id, of: str, name: str) -> bool:
        """Check that all ids of the images, for example, are text, or none is."""
        kind = id_kind(id)
        expected = self._kinds.setdefault(of, kind)
        if kind is not expected:
            others = 'text' if expected is str else 'numbers'
            detail = f'{of} id {id!r}, but the others are {others}'
            self.report.error('ids of mixed types', name, detail)
        return kind is expected

    def _check_categories(self, categories: list) -> None:
        names: list[str] = []
        for i, category in enumerate(categories):
            record = f'categories[{i}]'
            if not self._fits(category, record, CATEGORY):
                continue
            id, name = category['id'], category['name']
            self._is_of_one_kind(id, 'category', record)
            if self.split.evaluated and type(id) is not int:
                kind = 'category id that is no integer: pycocotools looks up no other'
                self.report.error(kind, record, short(id))
            if id in self._category_ids:
                self.report.error('duplicate category id', record, str(id))
            if name in names:
                self.report.error('duplicate category name', record, repr(name))
            self._category_ids.add(id)
            names.append(name)
            if name in self.split.classes:
                self.class_ids[id] = name
        # MMDetection numbers the labels in the order of the file, whatever the order
        # of the classes in the config.
        classes = list(self.split.classes)
        found = [name for name in names if name in classes]
        missing = first_few([name for name in classes if name not in found])
        advice = (
            'Set metainfo=dict(classes=(…)) of the data set to names of the file, in '
            f'its order: {first_few(names)}'
        )
        if not found:
            self.report.error(
                "none of the config's classes is in the file",
                detail=f'{first_few(classes)}. {advice}',
            )
        elif found != classes[: len(found)]:
            reason = 'they are in another order'
            if set(classes) - set(found):
                reason = f'missing there: {missing}'
            self.report.error(
                "the config's classes do not match the file's",
                detail=f'{reason}. {advice}',
            )
        elif len(found) < len(classes):
            # The metric fails on the first detection of such a class.
            stops = self.split.evaluated
            kind = 'classes of the config that the file lacks'
            advice = '. Add them to its "categories": they need no objects.'
            self.report.add(kind, stops, detail=missing + (advice if stops else ''))

    def _check_images(self, images: list) -> None:
        files: set[str] = set()
        for i, image in enumerate(images):
            name = f'images[{i}]'
            if isinstance(image, dict) and 'id' in image:
                name = f'image {short(image["id"])}'
            if not self._fits(image, name, IMAGE):
                continue
            file, width, height = (image[k] for k in ('file_name', 'width', 'height'))
            sides = width, height
            self._is_of_one_kind(image['id'], 'image', name)
            if image['id'] in self.images:
                self.report.error('duplicate image id', name, file)
            elif min(sides) < 1:
                self.report.error('no size', name, f'{width} x {height}')
            elif self.split.scores_masks and not all(type(s) is int for s in sides):
                detail = f'{width} x {height}: pycocotools takes integers only'
                self.report.error('size that is not of integers', name, detail)
            else:
                if file in files:
                    kind = 'listed twice under different ids'
                    self.report.warning(kind, name, file)
                files.add(file)
                self.images[image['id']] = image

    def _check_annotations(self, annotations: list) -> None:
        split, report = self.split, self.report
        ids: set[int | str] = set()
        for i, annotation in enumerate(annotations):
            name = f'annotations[{i}]'
            if isinstance(annotation, dict) and 'id' in annotation:
                image_id = short(annotation.get('image_id', 'unknown'))
                name = f'annotation {short(annotation["id"])} (image {image_id})'
            if not self._fits(annotation, name, ANNOTATION_IDS):
                continue
            id, image_id, category_id = (annotation[key] for key in ANNOTATION_IDS)
            if id in ids:
                report.error('duplicate annotation id', name)
            elif id == 0 and not split.trains:
                # It marks its matches by the id, and 0 means none.
                report.warning(
                    'annotation id 0: pycocotools counts what is found of it as false',
                    name,
                )
            elif split.evaluated and isinstance(id, str):
                report.error('annotation id that pycocotools cannot store', name)
            ids.add(id)
            kinds_fit = [
                self._is_of_one_kind(id, 'annotation', name),
                self._is_of_one_kind(image_id, 'image', name),
                self._is_of_one_kind(category_id, 'category', name),
            ]
            if not all(kinds_fit):
                continue
            image = self.images.get(image_id)
            if image is None:
                report.warning('of an image that is not in the file', name)
                continue
            self.annotations.setdefault(image_id, []).append(annotation)
            if not self._check_flags(annotation, name):
                continue
            if annotation.get('ignore') and not split.evaluated:
                self._annotated.update([image_id] * (category_id in self.class_ids))
                continue
            if not self._check_numbers(annotation, name):
                continue
            if category_id not in self.class_ids:
                kind = 'of a category that is not in the file'
                if category_id in self._category_ids:
                    kind = 'of a class that is not in the config'
                report.warning(kind, name, f'category_id {category_id}')
                continue
            self._annotated.add(image_id)
            is_kept = self._check_box(annotation, image, name)
            # Evaluators read the masks of annotations that data sets skip.
            if is_kept and split.loads_masks or split.scores_masks:
                is_kept &= self._check_mask(annotation, image, name)
            if annotation.get('iscrowd'):
                self._crowds += 1
            elif is_kept:
                self._objects[self.class_ids[category_id]] += 1

    def _check_flags(self, annotation: dict, name: str) -> bool:
        for key in 'iscrowd', 'ignore':
            value = annotation.get(key)
            if not _is_flag(value):
                detail = f'{short(value)}: must be 0 or 1'
                self.report.error(f'"{key}" is not 0 or 1', name, detail)
                return False
        if self.split.evaluated and annotation.get('iscrowd') is None:
            detail = 'pycocotools fails on it: write "iscrowd": 0'
            self.report.error('has no "iscrowd"', name, detail)
            return False
        return True

    def _check_numbers(self, annotation: dict, name: str) -> bool:
        if not self._fits(annotation, name, OBJECT):
            return False
        box, area = annotation['bbox'], annotation['area']
        if len(box) == 4 and are_numbers(box) and are_numbers([area], MAX_AREA):
            return True
        kind = 'the box or its area is not of finite numbers'
        self.report.error(kind, name, f'bbox {short(box)}, area {short(area)}')
        return False

    def _check_box(self, annotation: dict, image: dict, name: str) -> bool:
        """Check a box, and return whether MMDetection keeps the annotation."""
        box, area = annotation['bbox'], annotation['area']
        if annotation.get('ignore'):
            return False
        x, y, w, h = box
        width, height = image['width'], image['height']
        if w < 1 or h < 1 or area <= 0:
            kind = 'box or object of no area'
            self.report.warning(kind, name, f'bbox {box}, area {area}')
            return False
        detail = f'bbox {box}, image {width} x {height}'
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.report.warning('box outside the image', name, detail)
            return False
        if max(-x, -y, x + w - width, y + h - height) > EDGE_TOLERANCE:
            self.report.warning('box reaches outside the image', name, detail)
        return True

    def _check_mask(self, annotation: dict, image: dict, name: str) -> bool:
        """Check a mask, and return whether MMDetection loads it."""
        mask = annotation.get('segmentation')
        size = int(image['height']), int(image['width'])
        problem = mask_problem(mask, *size, self.split.scores_masks)
        if problem:
            self.report.add(problem.kind, problem.stops, name, problem.detail)
            return problem.is_usable
        is_ignored = self.split.loads_polygons and isinstance(mask, dict)
        if is_ignored and not annotation.get('iscrowd'):
            self.report.error(
                'RLE mask in a pipeline that loads polygons only',
                name,
                'MMDetection would ignore the object: set poly2mask=True of '
                'LoadAnnotations',
            )
        return not is_ignored

    def _check_what_is_left(self, categories: list, number: int) -> None:
        """Find what will be loaded, of the categories and a number of annotations."""
        split, report = self.split, self.report
        if not self.images:
            report.error('has no images')
        elif split.needs_annotations and not number:
            report.add('has no annotations', split.trains)
        self._find_used_images()
        objects = self._objects.total()
        if number and split.needs_annotations and not report.stops:
            detail = f'of {len(self.images)} images and {number} annotations'
            if not (self.used and objects):
                if self._crowds:
                    detail += f'; {self._crowds} have iscrowd=1, and are not learnt'
                stops = split.trains
                kind = 'nothing is left to train on' if stops else 'nothing to find'
                report.add(kind, stops, detail=detail)
            elif split.trains:
                self._check_empty_classes(categories)
        each = ', '.join(f'{n} {self._objects[n]}' for n in self.class_ids.values())
        report.count(
            f'{len(self.images)} images, {len(self.used)} of them used; {objects} '
            f'objects ({each}); {self._crowds} crowds'
        )

    def _check_empty_classes(self, categories: list) -> None:
        above = [c.get('supercategory') for c in categories if isinstance(c, dict)]
        for name in self.class_ids.values():
            if not self._objects[name]:
                detail = repr(name)
                if name in above:
                    detail += (
                        ', the supercategory of others: leave it out of the classes'
                    )
                self.report.warning('class without objects', '', detail)

    def _find_used_images(self) -> None:
        split, report = self.split, self.report
        min_size = split.filter_cfg.get('min_size', 0)
        for id, image in self.images.items():
            if split.filter_cfg.get('filter_empty_gt') and id not in self._annotated:
                continue
            size = image['width'], image['height']
            detail = f'{image["file_name"]}, {size[0]} x {size[1]}'
            if min(size) < min_size:
                kind = f'image left out: a side under {min_size} pixels'
                report.warning(kind, f'image {id}', detail)
                continue
            self.used[id] = image
        indices = getattr(split.dataset, '_indices', None)
        ids = list(self.used)
        if isinstance(indices, int):
            ids = ids[:indices] if indices >= 0 else ids[indices:]
        elif indices is not None:
            ids = [ids[i] for i in indices if -len(ids) <= i < len(ids)]
        self.used = {id: self.images[id] for id in ids}
        for id, image in self.used.items():
            size = image['width'], image['height']
            for scale in split.scales:
                width, height = mmcv.rescale_size(size, scale)
                if min(width, height) < 1:
                    report.error(
                        'image too narrow for the pipeline',
                        f'image {id}',
                        f'{image["file_name"]}, {size[0]} x {size[1]}, would be '
                        f'resized to {width} x {height} pixels',
                    )
