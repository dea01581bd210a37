"""Generate an instance-segmentation data set: overlapping shapes, in COCO's format.

The demo trains on it, and the tests use it: it needs no download.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write_text
from .masks import encode_rle

KINDS = ('circle', 'square', 'triangle', 'ring', 'cross')
CLASSES = KINDS[:3]  # of the default data set
SPLITS = ('train', 'val')
DESCRIPTION = 'Shapes: overlapping circles, squares and triangles'
# Least visible part of an object, so that its kind can be recognized.
MIN_VISIBLE = 0.6


def _polygon(sides: int) -> Callable:
    """Regular polygon in the unit circle: the points inside each of its sides."""
    angles = [2 * math.pi * k / sides for k in range(sides)]
    inradius = math.cos(math.pi / sides)

    def covers(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        inside = [u * math.cos(a) + v * math.sin(a) <= inradius for a in angles]
        return np.logical_and.reduce(inside)

    return covers


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points, between which the radius falls from 1 to 0.45."""
    angle = np.arctan2(v, u) % (2 * math.pi / 5)
    return np.hypot(u, v) <= 0.45 + 0.55 * abs(angle / (math.pi / 5) - 1)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """An algebraic curve of the sixth degree."""
    u, v = 1.2 * u, 1.2 * v
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0


# Whether a point is inside a shape, in coordinates from the centre of the shape, along
# its axes, in radii.
INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'circle': lambda u, v: u**2 + v**2 <= 1,
    'square': _polygon(4),
    'triangle': _polygon(3),
    'ring': lambda u, v: (u**2 + v**2 <= 1) & (u**2 + v**2 >= 0.55**2),
    'cross': lambda u, v: (
        (np.maximum(abs(u), abs(v)) <= 0.95) & (np.minimum(abs(u), abs(v)) <= 0.3)
    ),
    'bar': lambda u, v: (abs(u) <= 0.95) & (abs(v) <= 0.28),
    'ellipse': lambda u, v: u**2 + (v / 0.5) ** 2 <= 1,
    'half': lambda u, v: (u**2 + v**2 <= 1) & (u >= 0),
    'heart': _heart,
    'star': _star,
}


@dataclass(frozen=True)
class Shape:
    """A shape in an image.

    Attributes:
        kind: A key of :data:`INSIDE`.
        x: Centre, in pixels.
        y: Centre, in pixels.
        radius: Radius of the circumscribed circle, in pixels.
        angle: Clockwise rotation, in radians.
    """

    kind: str
    x: float
    y: float
    radius: float
    angle: float

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which of the points (x, y), in pixels, are inside the shape."""
        dx, dy = (x - self.x) / self.radius, (y - self.y) / self.radius
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return INSIDE[self.kind](dx * cos + dy * sin, dy * cos - dx * sin)


@dataclass(frozen=True)
class Scene:
    """Content of an image.

    Attributes:
        crowd: Small shapes behind the objects, annotated together.
        objects: Shapes, each in front of those before it.
    """

    crowd: tuple[Shape, ...]
    objects: tuple[Shape, ...]


def _pixel_centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(size) + 0.5
    return steps[None, :], steps[:, None]


def random_shape(
    rng: np.random.Generator,
    size: int,
    kind: str,
    radius: tuple[float, float],
    margin: float,
) -> Shape:
    """Draw a shape.

    Args:
        rng (np.random.Generator): Source of random numbers.
        size (int): Height and width of the image, in pixels.
        kind (str): A key of :data:`INSIDE`.
        radius (tuple[float, float]): Range of the radius, in ``size``.
        margin (float): Least distance of the centre from the border, in radii.
    """
    r = rng.uniform(*radius) * size
    x, y = rng.uniform(margin * r, size - margin * r, 2)
    # A side of a square or a triangle is at the top, give or take 20 degrees. With any
    # angle, the classes would take longer to learn than a demo has.
    angle = rng.uniform(-0.35, 0.35) - math.pi / 2
    return Shape(kind, x, y, r, angle)


def sample_scene(
    rng: np.random.Generator, size: int, index: int, num_classes: int = 3
) -> Scene:
    """Draw the content of the image at ``index``, of the first ``num_classes`` kinds.

    Images 1, 21, 41 and so on have a crowd, and images 2, 22, 42 and so on are empty,
    so that each data set of three images or more has both.
    """
    crowd: list[Shape] = []
    if index % 20 == 2:
        return Scene((), ())
    if index % 20 == 1:
        kind = KINDS[rng.integers(num_classes)]
        x, y = rng.uniform(0.25 * size, 0.75 * size, 2)
        for dx, dy in rng.uniform(-0.2 * size, 0.2 * size, (12, 2)):
            radius = rng.uniform(0.025, 0.045) * size
            angle = rng.uniform(0, 2 * math.pi)
            crowd.append(Shape(kind, x + dx, y + dy, radius, angle))
    centres = _pixel_centres(size)
    objects: list[Shape] = []
    visible: list[np.ndarray] = []
    areas: list[int] = []
    wanted = rng.integers(2, 7)
    for _ in range(4 * wanted):  # some don't fit
        kind = KINDS[rng.integers(num_classes)]
        shape = random_shape(rng, size, kind, (0.15, 0.3), 0.75)
        mask = shape.covers(*centres)
        left = [old & ~mask for old in visible]
        if any(part.sum() < MIN_VISIBLE * area for part, area in zip(left, areas)):
            continue
        objects.append(shape)
        visible = left + [mask]
        areas.append(int(mask.sum()))
        if len(objects) == wanted:
            break
    return Scene(tuple(crowd), tuple(objects))


def visible_masks(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the visible part of each object, and of the crowd.

    Returns:
        tuple[np.ndarray, np.ndarray]: bool masks of the crowd, (size, size), and of
        the objects, (N, size, size), which don't overlap.
    """
    centres = _pixel_centres(size)
    hidden = np.zeros((size, size), bool)
    masks = np.zeros((len(scene.objects), size, size), bool)
    for i in range(len(masks))[::-1]:  # from front to back
        full = scene.objects[i].covers(*centres)
        masks[i] = full & ~hidden
        hidden |= full
    crowd = np.zeros((size, size), bool)
    for shape in scene.crowd:
        crowd |= shape.covers(*centres)
    return crowd & ~hidden, masks


def _colour_ramp(
    rng: np.random.Generator, size: int, unlike: np.ndarray | None = None
) -> np.ndarray:
    """Draw a colour that changes linearly across the image, (size, size, 3).

    It can be told from the mean colour of ``unlike``.
    """
    xx, yy = _pixel_centres(size)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (xx / size - 0.5) * math.cos(angle) + (yy / size - 0.5) * math.sin(angle)
    colour = rng.uniform(30, 225, 3)
    while unlike is not None and abs(colour - unlike.mean((0, 1))).max() < 70:
        colour = rng.uniform(30, 225, 3)
    return colour + ramp[..., None] * rng.uniform(-60, 60, 3)


def paint(rng: np.random.Generator, scene: Scene, size: int) -> np.ndarray:
    """Paint a scene in random colours, as uint8 of shape (size, size, 3)."""
    background = _colour_ramp(rng, size)
    image = background.copy()
    for shape in (*scene.crowd, *scene.objects):
        mask = shape.covers(*_pixel_centres(size))
        image[mask] = _colour_ramp(rng, size, background)[mask]
    image += rng.uniform(-5, 5, (size, size, 1))
    return image.clip(0, 255).astype(np.uint8)


def _annotation(mask: np.ndarray, kind: str, is_crowd: bool) -> dict:
    (rle,) = encode_rle([mask])
    return dict(
        category_id=KINDS.index(kind) + 1,
        bbox=[float(v) for v in mask_api.toBbox(rle)],
        area=int(mask_api.area(rle)),
        iscrowd=int(is_crowd),
        segmentation=rle,
    )


def _write_split(root: Path, split: str, settings: dict) -> None:
    """Write the images, then the annotations: if they exist, the split is complete."""
    size, num_classes = settings['size'], settings['num_classes']
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in tqdm(range(settings['num']), split):
        # A seed per image: image i is the same in a larger data set.
        rng = np.random.default_rng([settings['seed'], SPLITS.index(split), index])
        scene = sample_scene(rng, size, index, num_classes)
        image = dict(id=index + 1, file_name=f'{index + 1:06d}.jpg')
        images.append(dict(image, height=size, width=size))
        quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
        encoded = cv2.imencode('.jpg', paint(rng, scene, size), quality)[1]
        (folder / image['file_name']).write_bytes(encoded.tobytes())
        crowd, masks = visible_masks(scene, size)
        found = [_annotation(m, s.kind, False) for m, s in zip(masks, scene.objects)]
        if crowd.any():
            found.append(_annotation(crowd, scene.crowd[0].kind, True))
        annotations += [
            dict(id=len(annotations) + k, image_id=index + 1, **annotation)
            for k, annotation in enumerate(found, 1)
        ]
    content = dict(
        info=dict(description=DESCRIPTION, settings=settings),
        categories=[
            dict(id=i, name=name, supercategory='shape')
            for i, name in enumerate(KINDS[:num_classes], 1)
        ],
        images=images,
        annotations=annotations,
    )
    path = annotation_file(root, split)
    path.parent.mkdir(exist_ok=True)
    atomic_write_text(path, json.dumps(content))


def annotation_file(root: str | Path, split: str) -> Path:
    """Return the path of the annotations of a split, 'train' or 'val'."""
    return Path(root) / 'annotations' / f'instances_{split}.json'


def _is_complete(root: Path, split: str, settings: dict) -> bool:
    path = annotation_file(root, split)
    if not path.exists():
        return False
    try:
        content = json.loads(path.read_text())
        # Files of version 0.1 don't have num_classes, which was always 3.
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


def check_numbers(*numbers: tuple[str, int, int]) -> None:
    """Raise a UserError for the first (name, value, minimum) that is too small."""
    for name, value, minimum in numbers:
        if value < minimum:
            raise UserError(f'{name} must be at least {minimum}, but is {value}.')


def write_missing_splits(
    root: Path,
    splits: dict[str, dict],
    is_complete: Callable[[Path, str, dict], bool],
    write_split: Callable[[Path, str, dict], None],
) -> None:
    """Write the splits of a data set that aren't there.

    Args:
        root (Path): Folder of the data set.
        splits (dict[str, dict]): Settings of each split, with its ``num`` of images.
        is_complete (Callable): Takes the folder, a split and its settings. Returns
            whether the split is there, and raises a UserError if something else is.
        write_split (Callable): Takes the same, and writes the split.

    Raises:
        UserError: If something else is there, or the folder can't be written.
    """
    try:
        # Both are checked before either is written.
        missing = [
            split
            for split, settings in splits.items()
            if not is_complete(root, split, settings)
        ]
        for split, settings in splits.items():
            if split in missing:
                write_split(root, split, settings)
            else:
                print(f'{split}: {settings["num"]} images are there already.')
    except OSError as error:
        raise UserError(
            f'Cannot write the data set to {root}: {error}. Is there room, and may '
            'you write there?'
        ) from error


def make_shapes(
    root: str | Path = 'data/shapes',
    num_train: int = 600,
    num_val: int = 100,
    size: int = 128,
    seed: int = 0,
    num_classes: int = 3,
) -> Path:
    """Make the data set, unless it is there already.

    The same arguments give the same files, byte for byte (with the same versions of
    NumPy and OpenCV). The layout is COCO's: ``annotations/instances_{train,val}.json``,
    ``train/*.jpg``, ``val/*.jpg``. Masks are run-length encoded, and hold exactly the
    visible pixels of an object.

    Args:
        root (str | Path): Folder to write to.
        num_train (int): Number of training images.
        num_val (int): Number of validation images.
        size (int): Height and width of the images, in pixels.
        seed (int): Seed of all random numbers.
        num_classes (int): How many of the five kinds there are: circle, square,
            triangle, ring, cross.

    Returns:
        Path: The folder.

    Raises:
        UserError: For a number out of range, a folder that can't be written, or one
            that holds another data set.
    """
    check_numbers(
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('size', size, 32),
        ('seed', seed, 0),
        ('num_classes', num_classes, 1),
    )
    if num_classes > len(KINDS):
        raise UserError(
            f'num_classes must be at most {len(KINDS)} '
            f'({", ".join(KINDS)}), but is {num_classes}.'
        )
    settings = dict(size=size, seed=seed, num_classes=num_classes)
    splits = {
        split: dict(num=num, **settings)
        for split, num in zip(SPLITS, (num_train, num_val))
    }
    root = Path(root)
    write_missing_splits(root, splits, _is_complete, _write_split)
    return root
