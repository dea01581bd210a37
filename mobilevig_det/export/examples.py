"""Images to compare an exported file with PyTorch on: of sizes that hurt."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models import BaseDetector
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor

from ..datasets import check_data_paths, leaf_datasets
from ..datasets.shapes import paint, sample_scene
from ..errors import UserError

# Height and width: as small as it gets, far from square, padded, and, the last
# one, of no multiple of 32.
HARD = ((64, 64), (64, 320), (90, 118))
UNEVEN = (101, 147)
# Of images in their own size, and of those in the smallest one, in turn: a runtime may
# compute nonsense only from the second or third image of one size on.
NUMBER = 3


class Example(NamedTuple):
    """What the model gets: normalised and padded, and its size before."""

    image: Tensor  # (1, 3, H, W)
    size: tuple[int, int]


def make_examples(
    cfg: Config, detector: BaseDetector, fixed_size: tuple[int, int] | None = None
) -> tuple[str, list[Example]]:
    """Images of the config's test set, in their own sizes and in hard ones; of
    ``fixed_size`` alone, if it is given. Three different ones have the same size.

    Returns:
        tuple[str, list[Example]]: Where they are from, in words, and they.
    """
    try:
        check_data_paths(cfg, ['test'])
        raw = list(_of_test_set(cfg)) if cfg.get('test_dataloader') else []
        source = "of the config's test set"
    except UserError:
        raw = []
    if not raw:
        raw = list(_generated())
        source = "generated (the config's test set is not there)"
    mirrored = raw[0].flip(-1), raw[0].flip(-2)  # where there are too few
    three = [*raw, *mirrored][:NUMBER]
    if fixed_size is not None:
        sizes = [_resized(image, fixed_size) for image in three]
        return source, [Example(_prepared(detector, x), fixed_size) for x in sizes]
    examples = [_padded(detector, image) for image in raw]
    examples += [_padded(detector, _resized(image, HARD[0])) for image in three]
    for image, size in zip(three[1:], HARD[1:], strict=True):
        examples.append(_padded(detector, _resized(image, size)))
    uneven = _resized(raw[-1], UNEVEN)
    image = _prepared(detector, uneven)
    try:
        with torch.no_grad():
            detector.extract_feat(image)
        examples.append(Example(image, UNEVEN))
    except RuntimeError:  # some necks take multiples of 32 only
        examples.append(_padded(detector, uneven))
    return source, examples


def _of_test_set(cfg: Config) -> Iterator[Tensor]:
    dataset = DATASETS.build(
        dict(next(leaf_datasets(cfg.test_dataloader.dataset)), test_mode=True)
    )
    number = min(NUMBER, len(dataset))
    for i in np.linspace(0, len(dataset) - 1, number).astype(int).tolist():
        yield dataset[i]['inputs']


def _generated() -> Iterator[Tensor]:
    rng = np.random.default_rng(0)
    for index, size in enumerate((128, 192, 256)):
        # Index 2 would be an image without objects.
        image = paint(rng, sample_scene(rng, size, 3 + index), size)
        yield torch.from_numpy(image).permute(2, 0, 1)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None].float(), size=size, mode='bilinear')[0].byte()


def _prepared(detector: BaseDetector, image: Tensor) -> Tensor:
    """Normalised by the detector itself, without padding; (1, 3, H, W)."""
    height, width = image.shape[1:]
    sample = DetDataSample(metainfo=dict(img_shape=(height, width)))
    data = dict(inputs=[image], data_samples=[sample])
    inputs = detector.data_preprocessor(data, False)['inputs']
    return inputs[:, :, :height, :width].contiguous()


def _padded(detector: BaseDetector, image: Tensor) -> Example:
    """Padded to multiples of 32 at least."""
    height, width = image.shape[1:]
    preprocessor = detector.data_preprocessor
    divisor = int(np.lcm(32, preprocessor.pad_size_divisor))
    padded = F.pad(
        _prepared(detector, image),
        (0, -width % divisor, 0, -height % divisor),
        value=preprocessor.pad_value,
    )
    return Example(padded, (height, width))
