"""Generate a classification data set: images of one shape, in ten classes.

A class differs in its geometry only: colours, places, sizes and angles have the same
distribution in all of them. It needs no download.
"""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write, atomic_write_text
from .shapes import (
    INSIDE,
    SPLITS,
    Scene,
    check_numbers,
    paint,
    random_shape,
    write_missing_splits,
)

CLASSES = tuple(sorted(INSIDE))


def paint_class(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Paint an image of a class, uint8 of shape (size, size, 3)."""
    shape = random_shape(rng, size, name, (0.22, 0.42), 0.9)
    return paint(rng, Scene((), (shape,)), size)


def make_shape_classes(
    root: str | Path = 'data/shape_classes',
    num_train: int = 3000,
    num_val: int = 500,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Make the image folders, unless they are there already.

    The same arguments give the same files, byte for byte (with the same versions of
    NumPy and OpenCV). The layout is ImageNet's: ``train/CLASS/*.png`` and
    ``val/CLASS/*.png``, with as many images of each class.

    Args:
        root (str | Path): Folder to write to.
        num_train (int): Number of training images, rounded down to a multiple of ten.
        num_val (int): Number of validation images, likewise.
        size (int): Height and width of the images, in pixels.
        seed (int): Seed of all random numbers.

    Returns:
        Path: The folder.

    Raises:
        UserError: For a number out of range, a folder that can't be written, or one
            that holds something else.
    """
    check_numbers(
        ('num_train', num_train, len(CLASSES)),
        ('num_val', num_val, len(CLASSES)),
        ('size', size, 32),
        ('seed', seed, 0),
    )
    splits = {
        split: dict(num=num, size=size, seed=seed)
        for split, num in zip(SPLITS, (num_train, num_val))
    }
    root = Path(root)
    write_missing_splits(root, splits, _is_complete, _write_split)
    return root


def _settings_file(root: Path, split: str) -> Path:
    return root / f'{split}_settings.txt'


def _settings_text(settings: dict) -> str:
    return 'shape classes: num={num} size={size} seed={seed}\n'.format(**settings)


def _is_complete(root: Path, split: str, settings: dict) -> bool:
    path = _settings_file(root, split)
    if path.is_file() and path.read_text() == _settings_text(settings):
        return True
    if path.is_file() or (root / split).exists():
        raise UserError(
            f'{root / split} is of other settings, or not ours: give another folder, '
            f'or delete {root}.'
        )
    return False


def _write_split(root: Path, split: str, settings: dict) -> None:
    number = settings['num'] // len(CLASSES) * len(CLASSES)
    with atomic_write(root / split) as part:
        for name in CLASSES:
            (part / name).mkdir(parents=True)
        for index in tqdm(range(number), split):
            name = CLASSES[index % len(CLASSES)]
            seed = [settings['seed'], SPLITS.index(split), index, len(CLASSES)]
            image = paint_class(np.random.default_rng(seed), name, settings['size'])
            encoded = cv2.imencode('.png', image)[1]
            (part / name / f'{index + 1:06d}.png').write_bytes(encoded.tobytes())
    atomic_write_text(_settings_file(root, split), _settings_text(settings))
