"""Mixup and CutMix over a batch, with label smoothing.

MMPretrain's mix with a permutation and know no smoothing; the recipe's, timm's,
mix with the batch turned round.
"""

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


def smoothed_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Probabilities (B, num_classes) of labels (B,): ``smoothing`` of them goes
    to all classes in equal parts."""
    low = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), low, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + low)


def random_box(height: int, width: int, kept: float) -> tuple[int, int, int, int]:
    """A box of 1 - kept of the image's area, cut off at its edges: top, bottom,
    left, right, in pixels (CutMix, arXiv 1905.04899)."""
    ratio = np.sqrt(1 - kept)
    h, w = int(height * ratio), int(width * ratio)
    y, x = np.random.randint(0, height), np.random.randint(0, width)
    return (
        max(0, y - h // 2),
        min(height, y + (h + 1) // 2),
        max(0, x - w // 2),
        min(width, x + (w + 1) // 2),
    )


class BatchMixing:
    """Mixes each image with the one as far from the end of the batch.

    Draws from NumPy's generator in timm's order, so that both do the same from
    the same seed.

    Args:
        mixup (float): Alpha of mixup's Beta distribution; 0 for none.
        cutmix (float): Alpha of CutMix's; 0 for none.
        prob (float): How often a batch is mixed at all. Defaults to 1.
        switch_prob (float): How often by CutMix, where both are on. Defaults to
            0.5.
        label_smoothing (float): Defaults to 0.1.
        num_classes (int): Defaults to 1000.

    Raises:
        UserError: For an alpha or a probability out of its range.
    """

    def __init__(
        self,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
    ) -> None:
        for name, value in (('mixup', mixup), ('cutmix', cutmix)):
            if value < 0:
                raise UserError(f'{name} must be at least 0, but is {value}.')
        for name, value in (
            ('prob', prob),
            ('switch_prob', switch_prob),
            ('label_smoothing', label_smoothing),
        ):
            if not 0 <= value <= 1:
                raise UserError(f'{name} must be from 0 to 1, but is {value}.')
        self.mixup = mixup
        self.cutmix = cutmix
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (B, 3, H, W) and labels (B,) to images and probabilities
        (B, num_classes)."""
        targets = smoothed_one_hot(labels, self.num_classes, self.label_smoothing)
        if not (self.mixup or self.cutmix) or np.random.rand() >= self.prob:
            return images, targets
        both = self.mixup and self.cutmix
        cut = np.random.rand() < self.switch_prob if both else not self.mixup
        alpha = self.cutmix if cut else self.mixup
        kept = float(np.random.beta(alpha, alpha))
        others = images.flip(0)
        if cut:
            height, width = images.shape[-2:]
            top, bottom, left, right = random_box(height, width, kept)
            images = images.clone()
            box = (..., slice(top, bottom), slice(left, right))
            images[box] = others[box]
            kept = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            images = kept * images + (1 - kept) * others
        return images, kept * targets + (1 - kept) * targets.flip(0)
