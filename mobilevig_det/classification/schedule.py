"""The learning rate of the ImageNet recipe, epoch by epoch."""

import math

from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from ..errors import UserError


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """timm's cosine with a warm-up, as the authors' script steps it.

    At t, in epochs, the rate is::

        warmup_lr + t / warmup_epochs * (lr - warmup_lr)            t < warmup_epochs
        min_lr + (lr - min_lr) * (1 + cos(pi * t / epochs)) / 2     after it
        min_lr                                                      from epochs on

    The script steps with the number of the epoch that has ended: epoch e runs
    at t = max(0, e - 1). ``late=0`` is without that.

    Source: timm's ``CosineLRScheduler`` (t_in_epochs, no warmup_prefix), and
    the authors' main.py.

    Args:
        optimizer (Optimizer | OptimWrapper): Its rate is ``lr``, the peak's.
        epochs (int): Length of the cosine. Defaults to 300.
        warmup_epochs (int): Defaults to 20.
        warmup_lr (float): Rate at the start. Defaults to 1e-6.
        min_lr (float): Rate at the end. Defaults to 1e-5.
        late (int): Epochs that the schedule lags behind. Defaults to 1.
        others: ``end``, ``last_step``, … of MMEngine's schedulers.

    Raises:
        UserError: If the warm-up is not shorter than the whole.
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
        """The rate in an epoch, counted from 0, for a peak rate."""
        t = max(0, epoch - self.late)
        if t < self.warmup_epochs:
            return self.warmup_lr + t / self.warmup_epochs * (peak - self.warmup_lr)
        if t >= self.epochs:
            return self.min_lr
        cosine = 1 + math.cos(math.pi * t / self.epochs)
        return self.min_lr + (peak - self.min_lr) * cosine / 2
