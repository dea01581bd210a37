"""Check the records of a COCO annotation file, and what is left of them to train on."""

import math
from collections.abc import Mapping

import mmcv
import pycocotools.mask as mask_utils

from ..masks import count_rle_pixels
from .config import Split
from .files import AnnotationFileError, read_coco_file
from .report import FileReport, first_few

# Rounded boxes may reach outside the image by this much, in pixels.
EDGE_TOLERANCE = 1
# pycocotools takes minutes, or forever, to draw polygons that reach farther out.
MAX_COORDINATE = 1e6

Kinds = Mapping[str, type | tuple[type, ...]]
CATEGORY_KEYS: Kinds = dict(id=int, name=str)
IMAGE_KEYS: Kinds = dict(id=(int, str), file_name=str, width=int, height=int)
ANNOTATION_KEYS: Kinds = dict(
    id=(int, str), image_id=(int, str), category_id=int, bbox=list, area=(int, float)
)


class AnnotationChecker:
    """Check an annotation file.

    Args:
        split (Split): The data set.
        report (FileReport): Gets the findings.

    Attributes:
        images (dict): Sound image records by their ids.
        used (set): Ids of the images that will be loaded.
    """

    def __init__(self, split: Split, report: FileReport) -> None:
        self.split = split
        self.report = report
        self.images: dict[int | str, dict] = {}
        self.used: set[int | str] = set()
        self._annotated: set[int | str] = set()  # ids of images
        self._number_kept = 0  # annotations that MMDetection keeps

    def check(self) -> None:
        """Check the file, and fill ``images`` and ``used``."""
        try:
            content = read_coco_file(self.split)
        except AnnotationFileError as error:
            kind, detail = error.args
            self.report.error(kind, detail=detail)
            return
        self._check_categories(content['categories'])
        self._check_images(content['images'])
        self._check_annotations(content['annotations'])
        self._check_what_is_left(len(content['annotations']))

    def _has(self, record, name: str, kinds: Kinds) -> bool:
        """Check that a record is an object with these keys of these types."""
        if not isinstance(record, dict):
            self.report.error('is not an object', name, repr(record)[:60])
            return False
        for key, kind in kinds.items():
            if key not in record:
                self.report.error(f'has no "{key}"', name)
                return False
            value = record[key]
            if not isinstance(value, kind) or isinstance(value, bool):
                finding = f'"{key}" is of the wrong type'
                self.report.error(finding, name, repr(value)[:60])
                return False
        return True

    def _check_categories(self, categories: list) -> None:
        names: list[str] = []
        self._category_ids: set[int] = set()
        self._class_ids: set[int] = set()
        for i, category in enumerate(categories):
            record = f'categories[{i}]'
            if not self._has(category, record, CATEGORY_KEYS):
                continue
            id, name = category['id'], category['name']
            if id in self._category_ids:
                self.report.error('duplicate category id', record, str(id))
            if name in names:
                self.report.error('duplicate category name', record, repr(name))
            self._category_ids.add(id)
            names.append(name)
            if name in self.split.classes:
                self._class_ids.add(id)
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
            finding = 'classes of the config that the file lacks'
            self.report.warning(finding, detail=missing)

    def _check_images(self, images: list) -> None:
        files: set[str] = set()
        for i, image in enumerate(images):
            name = f'images[{i}]'
            if isinstance(image, dict) and 'id' in image:
                name = f'image {image["id"]}'
            if not self._has(image, name, IMAGE_KEYS):
                continue
            file, width, height = (image[k] for k in ('file_name', 'width', 'height'))
            if image['id'] in self.images:
                self.report.error('duplicate image id', name, file)
            elif width < 1 or height < 1:
                self.report.error('no size', name, f'{width} x {height}')
            else:
                if file in files:
                    finding = 'listed twice under different ids'
                    self.report.warning(finding, name, file)
                files.add(file)
                self.images[image['id']] = image

    def _check_annotations(self, annotations: list) -> None:
        split, report = self.split, self.report
        ids: set[int | str] = set()
        for i, annotation in enumerate(annotations):
            name = f'annotations[{i}]'
            if isinstance(annotation, dict) and 'id' in annotation:
                image_id = annotation.get('image_id', 'unknown')
                name = f'annotation {annotation["id"]} (image {image_id})'
            if not self._has(annotation, name, ANNOTATION_KEYS):
                continue
            if annotation['id'] in ids:
                report.error('duplicate annotation id', name)
            elif annotation['id'] == 0 and not split.trains:
                # It marks its matches by the id, and 0 means none.
                report.warning(
                    'annotation id 0: pycocotools counts what is found of it as false',
                    name,
                )
            ids.add(annotation['id'])
            image = self.images.get(annotation['image_id'])
            category_id = annotation['category_id']
            if image is None:
                report.warning('of an image that is not in the file', name)
            elif category_id not in self._class_ids:
                finding = 'of a category that is not in the file'
                if category_id in self._category_ids:
                    finding = 'of a class that is not in the config'
                report.warning(finding, name, f'category_id {category_id}')
            else:
                self._annotated.add(image['id'])
                is_kept = self._check_box(annotation, image, name)
                self._number_kept += is_kept
                # Evaluators read the masks of annotations that data sets skip.
                if is_kept and split.loads_masks or split.scores_masks:
                    self._check_mask(annotation.get('segmentation'), image, name)

    def _check_box(self, annotation: dict, image: dict, name: str) -> bool:
        """Check a box, and return whether MMDetection keeps the annotation."""
        box, area = annotation['bbox'], annotation['area']
        if len(box) != 4 or not _are_finite(box) or not _are_finite([area]):
            finding = 'the box or its area is not of finite numbers'
            detail = f'bbox {repr(box)[:80]}, area {area!r}'
            self.report.error(finding, name, detail)
            return False
        if annotation.get('ignore'):
            return False
        x, y, w, h = box
        width, height = image['width'], image['height']
        if w < 1 or h < 1 or area <= 0:
            finding = 'box or object of no area'
            self.report.warning(finding, name, f'bbox {box}, area {area}')
            return False
        detail = f'bbox {box}, image {width} x {height}'
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.report.warning('box outside the image', name, detail)
            return False
        if max(-x, -y, x + w - width, y + h - height) > EDGE_TOLERANCE:
            self.report.warning('box reaches outside the image', name, detail)
        return True

    def _check_mask(self, mask, image: dict, name: str) -> None:
        if not mask:
            self.report.error('has no "segmentation"', name, 'the model learns masks')
        elif isinstance(mask, dict):
            self._check_rle(mask, [image['height'], image['width']], name)
        elif isinstance(mask, list):
            self._check_polygons(mask, image, name)
        else:
            finding = '"segmentation" is neither polygons nor RLE'
            self.report.error(finding, name, repr(mask)[:60])

    def _check_rle(self, mask: dict, expected: list[int], name: str) -> None:
        size, counts = mask.get('size'), mask.get('counts')
        if not isinstance(counts, (list, str)) or not isinstance(size, list):
            self.report.error('RLE mask without "size" or "counts"', name)
        elif size != expected:
            self.report.error(
                'RLE mask of another size than its image',
                name,
                f'{size} instead of {expected} (height, width)',
            )
        elif (number := count_rle_pixels(counts)) != size[0] * size[1]:
            # pycocotools reads on past its end, or refuses it.
            finding = 'RLE mask that does not fill its size'
            detail = f'{number} pixels instead of {size[0]} * {size[1]}'
            self.report.error(finding, name, detail)

    def _check_polygons(self, polygons: list, image: dict, name: str) -> None:
        if not all(isinstance(p, list) and _are_finite(p) for p in polygons):
            finding = 'polygon that is not a list of finite numbers'
            self.report.error(finding, name, repr(polygons)[:80])
            return
        invalid = [p for p in polygons if len(p) < 6 or len(p) % 2]
        if not invalid:
            return
        finding, detail = 'polygon with an odd number of coordinates', repr(invalid[0])
        if len(invalid[0]) < 6:
            finding = 'polygon of two points or fewer'
        stops = False
        if self.split.scores_masks:
            # MMDetection skips such polygons; pycocotools may not.
            try:
                mask_utils.frPyObjects(polygons, image['height'], image['width'])
            except Exception:
                stops = True
                detail += ' (pycocotools fails on it)'
        self.report.add(finding, stops, name, detail)

    def _check_what_is_left(self, number: int) -> None:
        """Find the images that will be loaded, out of a number of annotations."""
        split, report = self.split, self.report
        if not self.images:
            report.error('has no images')
        elif split.needs_annotations and not number:
            report.add('has no annotations', split.trains)
        for id, image in self.images.items():
            if split.filter_empty and id not in self._annotated:
                continue
            size = image['width'], image['height']
            detail = f'{image["file_name"]}, {size[0]} x {size[1]}'
            if min(size) < split.min_size:
                finding = f'image left out: a side under {split.min_size} pixels'
                report.warning(finding, f'image {id}', detail)
                continue
            self.used.add(id)
            for scale in split.scales:
                width, height = mmcv.rescale_size(size, scale)
                if min(width, height) < 1:
                    report.error(
                        'image too narrow for the pipeline',
                        f'image {id}',
                        f'{detail}, would be resized to {width} x {height} pixels',
                    )
        is_nothing_left = not (self.used and self._number_kept)
        if self.images and number and split.trains and is_nothing_left:
            detail = f'of {len(self.images)} images and {number} annotations'
            report.error('nothing is left to train on', detail=detail)


def _are_finite(values: list) -> bool:
    """Whether all are numbers, none of them infinite or absurdly large."""
    try:
        return not values or (
            math.isfinite(sum(values))
            and max(values) < MAX_COORDINATE
            and min(values) > -MAX_COORDINATE
        )
    except TypeError:
        return False
