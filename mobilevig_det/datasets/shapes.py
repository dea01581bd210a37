"""A small instance-segmentation data set that needs no download.

Overlapping circles, squares and triangles in COCO's format, made from a seed:
what the demo trains on, and what the tests use.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api
from tqdm import tqdm

from ..errors import UserError
from .masks import encode_rle

CLASSES = ('circle', 'square', 'triangle')
# For sets of more classes; the first three are the default.
KINDS = CLASSES + ('ring', 'cross')
DESCRIPTION = 'Shapes: overlapping circles, squares and triangles'
# What an object keeps in sight, whatever is painted over it: the part left is
# then still enough to tell what it is.
MIN_VISIBLE = 0.6


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; lengths in pixels, the angle in radians."""

    kind: str
    x: float
    y: float
    radius: float  # of the circle, or of the polygon's circumscribed circle
    angle: float

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which of the points (x, y) lie inside."""
        dx, dy = x - self.x, y - self.y
        squared = dx * dx + dy * dy
        if self.kind == 'circle':
            return squared <= self.radius**2
        if self.kind == 'ring':
            return (squared <= self.radius**2) & (squared >= (0.55 * self.radius) ** 2)
        if self.kind == 'cross':
            cos, sin = math.cos(self.angle), math.sin(self.angle)
            u, v = abs(dx * cos + dy * sin), abs(dy * cos - dx * sin)
            return (np.maximum(u, v) <= 0.95 * self.radius) & (
                np.minimum(u, v) <= 0.3 * self.radius
            )
        # A regular polygon: inside of each of its sides, as seen from the
        # centre.
        sides = 4 if self.kind == 'square' else 3
        inradius = self.radius * math.cos(math.pi / sides)
        inside = np.ones(np.broadcast(dx, dy).shape, bool)
        for k in range(sides):
            normal = self.angle + 2 * math.pi * k / sides
            inside &= dx * math.cos(normal) + dy * math.sin(normal) <= inradius
        return inside


@dataclass(frozen=True)
class Scene:
    """What one image shows: the crowd at the bottom, then the objects, each
    over the ones before it."""

    crowd: tuple[Shape, ...]
    objects: tuple[Shape, ...]


def _pixel_centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(size) + 0.5
    return steps[None, :], steps[:, None]


def _random_shape(
    rng: np.random.Generator, size: int, kind: str, radius: tuple[float, float]
) -> Shape:
    r = rng.uniform(*radius) * size
    # Up to about a tenth of a shape may be cut off by the border.
    x, y = rng.uniform(0.75 * r, size - 0.75 * r, 2)
    # A side of a square or a triangle is at the top, give or take 20 degrees:
    # turned by any angle, they would take longer to learn than a demo has.
    angle = rng.uniform(-0.35, 0.35) - math.pi / 2
    return Shape(kind, float(x), float(y), float(r), float(angle))


def sample_scene(
    rng: np.random.Generator, size: int, index: int, num_classes: int = 3
) -> Scene:
    """Place the shapes of image ``index`` of a set.

    Images 1, 21, 41, ... have a crowd and 2, 22, 42, ... nothing at all, so
    that every set of three images or more has both.
    """
    crowd: tuple[Shape, ...] = ()
    if index % 20 == 2:
        return Scene(crowd, ())
    if index % 20 == 1:
        kind = KINDS[rng.integers(num_classes)]
        x, y = rng.uniform(0.25 * size, 0.75 * size, 2)
        crowd = tuple(
            Shape(
                kind,
                float(x + dx),
                float(y + dy),
                float(rng.uniform(0.025, 0.045) * size),
                float(rng.uniform(0, 2 * math.pi)),
            )
            for dx, dy in rng.uniform(-0.2 * size, 0.2 * size, (12, 2))
        )
    xx, yy = _pixel_centres(size)
    objects: list[Shape] = []
    visible: list[np.ndarray] = []
    full: list[int] = []
    wanted = rng.integers(2, 7)
    for _ in range(4 * wanted):  # some do not fit
        shape = _random_shape(rng, size, KINDS[rng.integers(num_classes)], (0.15, 0.3))
        mask = shape.covers(xx, yy)
        left = [old & ~mask for old in visible]
        if any(part.sum() < MIN_VISIBLE * area for part, area in zip(left, full)):
            continue
        objects.append(shape)
        visible = left + [mask]
        full.append(int(mask.sum()))
        if len(objects) == wanted:
            break
    return Scene(crowd, tuple(objects))


def visible_masks(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What of each shape is to be seen.

    Returns:
        tuple: Boolean masks of the crowd's shapes together, (size, size), and
        of each object, (N, size, size). No two of them overlap.
    """
    xx, yy = _pixel_centres(size)
    hidden = np.zeros((size, size), bool)
    masks = np.zeros((len(scene.objects), size, size), bool)
    for i in range(len(masks))[::-1]:  # from the top down
        full = scene.objects[i].covers(xx, yy)
        masks[i] = full & ~hidden
        hidden |= full
    crowd = np.zeros((size, size), bool)
    for shape in scene.crowd:
        crowd |= shape.covers(xx, yy)
    return crowd & ~hidden, masks


def _shade(
    rng: np.random.Generator, size: int, unlike: np.ndarray | None = None
) -> np.ndarray:
    """A random colour that changes linearly across the image, and can be
    told from another one."""
    xx, yy = _pixel_centres(size)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (xx / size - 0.5) * math.cos(angle) + (yy / size - 0.5) * math.sin(angle)
    colour = rng.uniform(30, 225, 3)
    while unlike is not None and abs(colour - unlike.mean((0, 1))).max() < 70:
        colour = rng.uniform(30, 225, 3)
    return colour + ramp[..., None] * rng.uniform(-60, 60, 3)


def paint(rng: np.random.Generator, scene: Scene, size: int) -> np.ndarray:
    """The image of a scene, (size, size, 3) in 8 bits."""
    xx, yy = _pixel_centres(size)
    background = _shade(rng, size)
    image = background.copy()
    for shape in (*scene.crowd, *scene.objects):
        mask = shape.covers(xx, yy)
        image[mask] = _shade(rng, size, background)[mask]
    image += rng.uniform(-5, 5, (size, size, 1))
    return image.clip(0, 255).astype(np.uint8)


def _annotation(mask: np.ndarray, kind: str, crowd: bool) -> dict:
    (rle,) = encode_rle([mask])
    box = [float(v) for v in mask_api.toBbox(rle)]
    area = int(mask_api.area(rle))
    return dict(
        category_id=KINDS.index(kind) + 1,
        bbox=box,
        area=area,
        iscrowd=int(crowd),
        segmentation=rle,
    )


def _make_split(root: Path, split: str, settings: dict) -> None:
    """Write the images of a split and then, in one move, its annotations:
    where these are, the split is whole."""
    size = settings['size']
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in tqdm(range(settings['num']), split):
        # One stream an image: image i is the same in a larger set.
        rng = np.random.default_rng(
            [settings['seed'], ('train', 'val').index(split), index]
        )
        scene = sample_scene(rng, size, index, settings['num_classes'])
        name = f'{index + 1:06d}.jpg'
        encoded = cv2.imencode(
            '.jpg', paint(rng, scene, size), [cv2.IMWRITE_JPEG_QUALITY, 85]
        )[1]
        (folder / name).write_bytes(encoded.tobytes())
        images.append(dict(id=index + 1, file_name=name, height=size, width=size))
        crowd, masks = visible_masks(scene, size)
        found = [
            _annotation(mask, shape.kind, False)
            for mask, shape in zip(masks, scene.objects)
        ]
        if crowd.any():
            found.append(_annotation(crowd, scene.crowd[0].kind, True))
        annotations += [
            dict(id=len(annotations) + k, image_id=index + 1, **ann)
            for k, ann in enumerate(found, 1)
        ]
    content = dict(
        info=dict(description=DESCRIPTION, settings=settings),
        categories=[
            dict(id=i, name=name, supercategory='shape')
            for i, name in enumerate(KINDS[: settings['num_classes']], 1)
        ],
        images=images,
        annotations=annotations,
    )
    path = annotation_file(root, split)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(content))
    os.replace(part, path)


def annotation_file(root: str | Path, split: str) -> Path:
    """Where the annotations of a split ('train' or 'val') are."""
    return Path(root) / 'annotations' / f'instances_{split}.json'


def _finished(root: Path, split: str, settings: dict) -> bool:
    """Whether a split is there as asked.

    Raises:
        UserError: If something else is there, which is not ours to replace.
    """
    path = annotation_file(root, split)
    if not path.exists():
        return False
    try:
        content = json.loads(path.read_text())
        # Older files have none, when three was the only choice.
        found = {'num_classes': 3, **content['info']['settings']}
        names = [image['file_name'] for image in content['images']]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != settings:
        raise UserError(
            f'{path} is of other settings ({found or "not a shapes set"}, '
            f'asked for {settings}): give another folder, or delete {root}.'
        )
    return all((root / split / name).is_file() for name in names)


def make_shapes(
    root: str | Path = 'data/shapes',
    num_train: int = 600,
    num_val: int = 100,
    size: int = 128,
    seed: int = 0,
    num_classes: int = 3,
) -> Path:
    """Make the data set, unless it is there already.

    The same arguments give the same files, byte for byte (with the same
    versions of NumPy and OpenCV). Layout, as COCO's: ``annotations/
    instances_{train,val}.json``, ``train/*.jpg``, ``val/*.jpg``. Masks are
    run-length encoded, and hold exactly the pixels where the object is seen.

    Args:
        root (str | Path): Folder to write to.
        num_train (int): Training images.
        num_val (int): Held-out images.
        size (int): Height and width of the images, in pixels.
        seed (int): What everything is drawn from.
        num_classes (int): How many of the five kinds there are: circle,
            square, triangle, ring, cross.

    Returns:
        Path: The folder.

    Raises:
        UserError: For a number out of range, a folder that cannot be written
            or one that holds another data set.
    """
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('size', size, 32),
        ('seed', seed, 0),
        ('num_classes', num_classes, 1),
    ):
        if value < least:
            raise UserError(f'{name} must be at least {least}, but is {value}.')
    if num_classes > len(KINDS):
        raise UserError(
            f'num_classes must be at most {len(KINDS)} '
            f'({", ".join(KINDS)}), but is {num_classes}.'
        )
    root = Path(root)
    try:
        splits = {
            split: dict(num=num, size=size, seed=seed, num_classes=num_classes)
            for split, num in (('train', num_train), ('val', num_val))
        }
        # Both are looked at before either is touched.
        missing = [
            split
            for split, settings in splits.items()
            if not _finished(root, split, settings)
        ]
        for split, settings in splits.items():
            if split in missing:
                _make_split(root, split, settings)
            else:
                print(f'{split}: {settings["num"]} images are there already.')
    except OSError as error:
        raise UserError(
            f'Cannot write the data set to {root}: {error}. Is '
            'there room, and may you write there?'
        ) from error
    return root
