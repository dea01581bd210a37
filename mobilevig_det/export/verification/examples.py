"""Images of difficult sizes for the comparison of an exported file with PyTorch."""

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

from ...datasets import check_data_paths, leaf_datasets
from ...datasets.shapes import paint, sample_scene
from ...errors import UserError

# Height and width of a very small, an elongated and a padded image.
SIZES = ((64, 64), (64, 320), (90, 118))
# Not a multiple of 32, and not padded if the model accepts such sizes.
ODD_SIZE = (101, 147)
# Number of images in their own size, and of images in the smallest size: a runtime may
# compute wrong results only from the second or third image of the same size on.
NUMBER = 3


class Example(NamedTuple):
    """Input of the model.

    Attributes:
        image: Normalised and padded image, float32 of shape (1, 3, H, W).
        size: Height and width before padding.
    """

    image: Tensor
    size: tuple[int, int]


def make_examples(
    cfg: Config, detector: BaseDetector, fixed_size: tuple[int, int] | None = None
) -> tuple[str, list[Example]]:
    """Create examples from images of the config's test set.

    The examples have the original sizes and difficult sizes, and three of them have the
    same size. If the test set is not available, images are generated.

    Args:
        cfg (Config): The detector's config.
        detector (BaseDetector): The detector, which preprocesses the images.
        fixed_size (tuple[int, int] | None): The only size, (height, width), if given.

    Returns:
        tuple[str, list[Example]]: A description of the images' source, and the
        examples.
    """
    try:
        check_data_paths(cfg, ['test'])
        raw = list(_load_test_images(cfg)) if cfg.get('test_dataloader') else []
        source = "on images of the config's test set"
    except UserError:
        raw = []
    if not raw:
        raw = list(_generate_images())
        source = "on images that were generated (the config's test set is missing)"
    flipped = raw[0].flip(-1), raw[0].flip(-2)  # for a test set of one or two images
    three = [*raw, *flipped][:NUMBER]
    if fixed_size is not None:
        sizes = [_resize(image, fixed_size) for image in three]
        return source, [Example(_normalise(detector, x), fixed_size) for x in sizes]
    examples = [_pad(detector, image) for image in raw]
    examples += [_pad(detector, _resize(image, SIZES[0])) for image in three]
    for image, size in zip(three[1:], SIZES[1:], strict=True):
        examples.append(_pad(detector, _resize(image, size)))
    odd = _resize(raw[-1], ODD_SIZE)
    image = _normalise(detector, odd)
    try:
        with torch.no_grad():
            detector.extract_feat(image)
        examples.append(Example(image, ODD_SIZE))
    except RuntimeError:  # some necks accept multiples of 32 only
        examples.append(_pad(detector, odd))
    return source, examples


def _load_test_images(cfg: Config) -> Iterator[Tensor]:
    dataset = DATASETS.build(
        dict(next(leaf_datasets(cfg.test_dataloader.dataset)), test_mode=True)
    )
    number = min(NUMBER, len(dataset))
    for i in np.linspace(0, len(dataset) - 1, number).astype(int).tolist():
        yield dataset[i]['inputs']


def _generate_images() -> Iterator[Tensor]:
    rng = np.random.default_rng(0)
    for index, size in enumerate((128, 192, 256)):
        # Index 2 would be an image without objects.
        image = paint(rng, sample_scene(rng, size, 3 + index), size)
        yield torch.from_numpy(image).permute(2, 0, 1)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None].float(), size=size, mode='bilinear')[0].byte()


def _normalise(detector: BaseDetector, image: Tensor) -> Tensor:
    """Normalise an image as the detector does, without padding: (1, 3, H, W)."""
    height, width = image.shape[1:]
    sample = DetDataSample(metainfo=dict(img_shape=(height, width)))
    data = dict(inputs=[image], data_samples=[sample])
    inputs = detector.data_preprocessor(data, False)['inputs']
    return inputs[:, :, :height, :width].contiguous()


def _pad(detector: BaseDetector, image: Tensor) -> Example:
    """Normalise an image, and pad it to multiples of 32 and the detector's divisor."""
    height, width = image.shape[1:]
    preprocessor = detector.data_preprocessor
    divisor = int(np.lcm(32, preprocessor.pad_size_divisor))
    padded = F.pad(
        _normalise(detector, image),
        (0, -width % divisor, 0, -height % divisor),
        value=preprocessor.pad_value,
    )
    return Example(padded, (height, width))
