"""Ten classes of images that need no download: one shape in each.

What an image shows is in the geometry: colours, places, sizes and angles are
drawn alike for all classes. The shapes are those of the detection set, and some
more.
"""

import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import UserError
from .shapes import Shape, _pixel_centres, _shade

CLASSES = (
    'bar',
    'circle',
    'cross',
    'ellipse',
    'half',
    'heart',
    'ring',
    'square',
    'star',
    'triangle',
)
SPLITS = ('train', 'val')
MARK = 'settings.txt'


def covers(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which of the points (x, y) lie inside, for every class."""
    if shape.kind in ('circle', 'square', 'triangle', 'ring', 'cross'):
        return shape.covers(x, y)
    # As seen from the shape's centre, along its axes, in radii.
    dx, dy = (x - shape.x) / shape.radius, (y - shape.y) / shape.radius
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    if shape.kind == 'bar':
        return (abs(u) <= 0.95) & (abs(v) <= 0.28)
    if shape.kind == 'ellipse':
        return u**2 + (v / 0.5) ** 2 <= 1
    if shape.kind == 'half':
        return (u**2 + v**2 <= 1) & (u >= 0)
    if shape.kind == 'star':
        # Five points: the radius swings between 1 and 0.45.
        angle = np.arctan2(v, u) % (2 * math.pi / 5)
        swing = abs(angle / (math.pi / 5) - 1)
        return np.hypot(u, v) <= 0.45 + 0.55 * swing
    # A heart: an algebraic curve of the sixth degree.
    u, v = 1.2 * u, 1.2 * v
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0


def paint(rng: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """An image with one shape, (size, size, 3) in 8 bits."""
    radius = rng.uniform(0.22, 0.42) * size
    x, y = rng.uniform(0.9 * radius, size - 0.9 * radius, 2)
    # Turned by at most 20 degrees, as in the detection set.
    angle = rng.uniform(-0.35, 0.35) - math.pi / 2
    shape = Shape(kind, float(x), float(y), float(radius), float(angle))
    background = _shade(rng, size)
    image = background.copy()
    mask = covers(shape, *_pixel_centres(size))
    image[mask] = _shade(rng, size, background)[mask]
    image += rng.uniform(-5, 5, (size, size, 1))
    return image.clip(0, 255).astype(np.uint8)


def make_shape_classes(
    root: str | Path = 'data/shape_classes',
    num_train: int = 3000,
    num_val: int = 500,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Make the image folders, unless they are there already.

    The same arguments give the same files, byte for byte (with the same versions
    of NumPy and OpenCV). Layout, as ImageNet's: ``train/CLASS/*.png`` and
    ``val/CLASS/*.png``, as many images of each class.

    Args:
        root (str | Path): Folder to write to.
        num_train (int): Training images; a multiple of ten is used.
        num_val (int): Held-out images, likewise.
        size (int): Height and width of the images, in pixels.
        seed (int): What everything is drawn from.

    Returns:
        Path: The folder.

    Raises:
        UserError: For a number out of range, a folder that cannot be written
            or one that holds something else.
    """
    for name, value, least in (
        ('num_train', num_train, len(CLASSES)),
        ('num_val', num_val, len(CLASSES)),
        ('size', size, 32),
        ('seed', seed, 0),
    ):
        if value < least:
            raise UserError(f'{name} must be at least {least}, but is {value}.')
    root = Path(root)
    try:
        for split, num in zip(SPLITS, (num_train, num_val)):
            wanted = f'shape classes: num={num} size={size} seed={seed}\n'
            mark = root / f'{split}_{MARK}'
            if mark.is_file() and mark.read_text() == wanted:
                print(f'{split}: {num} images are there already.')
                continue
            if mark.is_file() or (root / split).exists():
                raise UserError(
                    f'{root / split} is of other settings, or not ours: give '
                    f'another folder, or delete {root}.'
                )
            _make_split(root, split, num, size, seed)
            mark.write_text(wanted)
    except OSError as error:
        raise UserError(
            f'Cannot write the data set to {root}: {error}. Is there room, and may '
            'you write there?'
        ) from error
    return root


def _make_split(root: Path, split: str, num: int, size: int, seed: int) -> None:
    """Write a split beside its place, then move it there: where it is, it is
    whole."""
    part = root / f'.{split}.part'
    shutil.rmtree(part, ignore_errors=True)
    for name in CLASSES:
        (part / name).mkdir(parents=True)
    for index in tqdm(range(num - num % len(CLASSES)), split):
        kind = CLASSES[index % len(CLASSES)]
        rng = np.random.default_rng([seed, SPLITS.index(split), index, 10])
        path = part / kind / f'{index + 1:06d}.png'
        encoded = cv2.imencode('.png', paint(rng, kind, size))[1]
        path.write_bytes(encoded.tobytes())
    os.replace(part, root / split)
