"""The records of an annotation file, and what they leave to train on."""

from functools import partial

import mmcv

from .json_file import Kind, has, read_coco_file
from .masks import are_sound, check_mask
from .report import DataReport, some
from .splits import Split

# Boxes that were rounded may reach over the edge by this much, in pixels.
EDGE_TOLERANCE = 1
CATEGORY_KEYS: dict[str, Kind] = dict(id=int, name=str)
IMAGE_KEYS: dict[str, Kind] = dict(id=(int, str), file_name=str, width=int, height=int)
ANNOTATION_KEYS: dict[str, Kind] = dict(
    id=(int, str), image_id=(int, str), category_id=int, bbox=list, area=(int, float)
)


class AnnotationChecker:
    """Check one annotation file; remember what the images must be like.

    Attributes:
        images (dict): Sound image records by their ids.
        used (set): Ids of the images that will be read.
    """

    def __init__(self, split: Split, report: DataReport) -> None:
        self.split = split
        self.add = partial(report.add, file=f'{split.name}: {split.ann_file}')
        self.images: dict[int, dict] = {}
        self.used: set[int] = set()

    def check(self) -> None:
        content = read_coco_file(self.split, self.add)
        if content is None:
            return
        self._check_categories(content['categories'])
        self._check_image_records(content['images'])
        self._check_annotations(content['annotations'])
        self._check_what_is_left(content['annotations'])

    def _check_categories(self, categories: list) -> None:
        names: list[str] = []
        ids: set[int] = set()
        for i, category in enumerate(categories):
            name = f'categories[{i}]'
            if not has(category, name, CATEGORY_KEYS, self.add):
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
            'of the file, in its order: ' + some(names)
        )
        if not found:
            self.add(
                "none of the config's classes is in the file",
                True,
                detail=f'{some(classes)}. {advice}',
            )
        elif found != classes[: len(found)]:
            self.add(
                "the config's classes do not match the file's",
                True,
                detail=(
                    f'missing there: {some(missing)}. '
                    if missing
                    else 'they are in another order. '
                )
                + advice,
            )
        elif missing:
            self.add(
                'classes of the config that the file lacks', False, detail=some(missing)
            )

    def _check_image_records(self, images: list) -> None:
        files: set[str] = set()
        for i, image in enumerate(images):
            name = f'images[{i}]'
            if isinstance(image, dict) and 'id' in image:
                name = f'image {image["id"]}'
            if not has(image, name, IMAGE_KEYS, self.add):
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
        ids: set[int] = set()
        self.annotated: set[int] = set()
        self.kept = 0
        for i, ann in enumerate(annotations):
            name = f'annotations[{i}]'
            if isinstance(ann, dict) and 'id' in ann:
                name = (
                    f'annotation {ann["id"]} (image {ann.get("image_id", "unknown")})'
                )
            if not has(ann, name, ANNOTATION_KEYS, self.add):
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
                check_mask(ann, image, name, self.split, self.add)

    def _check_box(self, ann: dict, image: dict, name: str) -> bool:
        """Whether MMDetection keeps the annotation."""
        box, area = ann['bbox'], ann['area']
        if len(box) != 4 or not are_sound(box) or not are_sound([area]):
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
