"""Parts of the ImageNet recipe: mixup, CutMix, learning-rate schedule, accuracy.

The recipe uses timm's mixup and CutMix, which mix each batch with the reversed batch
and smooth the labels. MMPretrain's mix with a random permutation and don't smooth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.registry import METRICS, MODELS, PARAM_SCHEDULERS
from mmengine.evaluator import BaseMetric
from mmengine.model import ImgDataPreprocessor
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import Tensor

from ..errors import UserError

# Statistics of ImageNet, for RGB values from 0 to 255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def smoothed_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Convert labels to target probabilities with label smoothing.

    Args:
        labels (Tensor): Labels of shape (B,).
        num_classes (int): Number of classes.
        smoothing (float): Probability that is shared equally by all classes.

    Returns:
        Tensor: float32 probabilities of shape (B, num_classes).
    """
    low = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), low, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + low)


def random_box(height: int, width: int, kept: float) -> tuple[int, int, int, int]:
    """Sample a box with the fraction 1 - kept of the image's area, and clip it.

    Source: CutMix (arXiv 1905.04899).

    Args:
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.
        kept (float): Fraction of the image's area outside of the box.

    Returns:
        tuple[int, int, int, int]: Top, bottom, left, right, in pixels.
    """
    ratio = np.sqrt(1 - kept)
    h, w = int(height * ratio), int(width * ratio)
    y, x = np.random.randint(0, height), np.random.randint(0, width)
    return (
        max(0, y - h // 2),
        min(height, y + (h + 1) // 2),
        max(0, x - w // 2),
        min(width, x + (w + 1) // 2),
    )


@dataclass
class BatchMixing:
    """Mixup and CutMix of a batch with the reversed batch, as in timm.

    Random numbers are drawn from NumPy's global generator in timm's order, so that both
    implementations give the same results for the same seed.

    Args:
        mixup (float): Alpha of mixup's Beta distribution; 0 turns mixup off.
        cutmix (float): Alpha of CutMix's Beta distribution; 0 turns CutMix off.
        prob (float): Probability that a batch is mixed. Defaults to 1.
        switch_prob (float): Probability of CutMix if both are on. Defaults to 0.5.
        label_smoothing (float): Probability that is shared by all classes. Defaults to
            0.1.
        num_classes (int): Number of classes. Defaults to 1000.

    Raises:
        UserError: If an alpha or a probability is out of range.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for name in ('mixup', 'cutmix'):
            value = getattr(self, name)
            if value < 0:
                raise UserError(f'{name} must be at least 0, but is {value}.')
        for name in ('prob', 'switch_prob', 'label_smoothing'):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f'{name} must be from 0 to 1, but is {value}.')

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images (Tensor): Images of shape (B, 3, H, W).
            labels (Tensor): Labels of shape (B,).

        Returns:
            tuple[Tensor, Tensor]: Images of the same shape, and target probabilities
            of shape (B, num_classes).
        """
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


@MODELS.register_module()
class ClassifierPreprocessor(ImgDataPreprocessor):
    """MMEngine's image preprocessor, extended by mixup and CutMix for training.

    Args:
        mean (Sequence[float]): Means of R, G and B, from 0 to 255. Defaults to those of
            ImageNet.
        std (Sequence[float]): Standard deviations of R, G and B. Defaults to those of
            ImageNet.
        mixing (dict, optional): Arguments of :class:`.BatchMixing`. Defaults to None,
            which disables mixing.
        non_blocking (bool): Whether to copy batches to the GPU asynchronously. Defaults
            to False.
    """

    def __init__(
        self, mean=MEAN, std=STD, mixing: dict | None = None, non_blocking: bool = False
    ) -> None:
        super().__init__(mean, std, bgr_to_rgb=True, non_blocking=non_blocking)
        self.mixing = None if mixing is None else BatchMixing(**mixing)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalize a batch, and mix it in training.

        Args:
            data (dict): ``inputs``, a list of uint8 BGR images of shape (3, H, W), and
                ``data_samples``.
            training (bool): Whether to mix. Defaults to False.

        Returns:
            dict: ``inputs`` of shape (B, 3, H, W), ``data_samples`` and, if the batch
            was mixed, ``targets`` of shape (B, num_classes).
        """
        data = super().forward(data, training)
        if training and self.mixing is not None:
            labels = torch.stack([sample.gt_label for sample in data['data_samples']])
            data['inputs'], data['targets'] = self.mixing(
                data['inputs'], labels.to(data['inputs'].device)
            )
        return data


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """timm's cosine learning-rate schedule with warm-up, as in the authors' script.

    At time t, in epochs, the learning rate is::

        warmup_lr + t / warmup_epochs * (lr - warmup_lr)            t < warmup_epochs
        min_lr + (lr - min_lr) * (1 + cos(pi * t / epochs)) / 2     t < epochs
        min_lr                                                      otherwise

    The script passes the index of the epoch that has ended to the schedule, so that
    epoch e runs at t = max(0, e - 1). With ``late=0``, it runs at t = e.

    Source: timm's ``CosineLRScheduler`` (t_in_epochs, no warmup_prefix), and the
    authors' main.py.

    Args:
        optimizer (Optimizer | OptimWrapper): Optimizer, whose learning rate is the
            peak ``lr``.
        epochs (int): Length of the schedule. Defaults to 300.
        warmup_epochs (int): Length of the warm-up. Defaults to 20.
        warmup_lr (float): Learning rate at the start. Defaults to 1e-6.
        min_lr (float): Learning rate at the end. Defaults to 1e-5.
        late (int): Number of epochs by which the schedule lags. Defaults to 1.
        **kwargs: ``end``, ``last_step`` and other arguments of MMEngine's schedulers.

    Raises:
        UserError: If the warm-up is not shorter than the schedule.
    """

    def __init__(
        self,
        optimizer,
        epochs: int = 300,
        warmup_epochs: int = 20,
        warmup_lr: float = 1e-6,
        min_lr: float = 1e-5,
        late: int = 1,
        **kwargs,
    ) -> None:
        if not 0 <= warmup_epochs < epochs:
            raise UserError(
                f'warmup_epochs={warmup_epochs} must be less than epochs={epochs}.'
            )
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.min_lr = min_lr
        self.late = late
        super().__init__(optimizer, 'lr', by_epoch=True, **kwargs)

    def _get_value(self) -> list[float]:
        return [self.rate(base, self.last_step) for base in self.base_values]

    def rate(self, peak: float, epoch: int) -> float:
        """Return the learning rate for a peak rate in an epoch, counted from 0."""
        t = max(0, epoch - self.late)
        if t < self.warmup_epochs:
            return self.warmup_lr + t / self.warmup_epochs * (peak - self.warmup_lr)
        if t >= self.epochs:
            return self.min_lr
        cosine = 1 + math.cos(math.pi * t / self.epochs)
        return self.min_lr + (peak - self.min_lr) * cosine / 2


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Top-k accuracy of classifiers in percent: ``accuracy/top1``, ``accuracy/top5``.

    A value of k is skipped if there are no more than k classes. A tie with the correct
    class counts as an error.

    Args:
        topk (Sequence[int]): Values of k. Defaults to (1, 5).
        collect_device (str): Device on which the results of all processes are
            collected, 'cpu' or 'gpu'. Defaults to 'cpu'.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the rank of the correct class of each sample."""
        for sample in data_samples:
            scores = sample['pred_score']
            correct = scores[sample['gt_label']]
            # "Not less" instead of "greater" makes ties and NaN count as errors.
            rank = int((~(scores < correct)).sum())
            self.results.append((rank, len(scores)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the accuracies, in percent, from the ranks of all samples."""
        ranks = torch.tensor([rank for rank, _ in results])
        return {
            f'top{k}': 100 * float((ranks <= k).float().mean())
            for k in self.topk
            if k < results[0][1]
        }
