"""Learning-rate schedule of the ImageNet recipe."""

import math

from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from ..errors import UserError


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """timm's cosine schedule with warm-up, as the authors' script steps it.

    At t, in epochs, the learning rate is::

        warmup_lr + t / warmup_epochs * (lr - warmup_lr)            t < warmup_epochs
        min_lr + (lr - min_lr) * (1 + cos(pi * t / epochs)) / 2     t < epochs
        min_lr                                                      otherwise

    The script steps with the number of the epoch that has ended, so that epoch e runs
    at t = max(0, e - 1). ``late=0`` turns that off.

    Source: timm's ``CosineLRScheduler`` (t_in_epochs, no warmup_prefix), and the
    authors' main.py.

    Args:
        optimizer (Optimizer | OptimWrapper): Its learning rate is ``lr``, the peak.
        epochs (int): Length of the schedule. Defaults to 300.
        warmup_epochs (int): Length of the warm-up. Defaults to 20.
        warmup_lr (float): Learning rate at the start. Defaults to 1e-6.
        min_lr (float): Learning rate at the end. Defaults to 1e-5.
        late (int): Epochs that the schedule lags behind. Defaults to 1.
        others: ``end``, ``last_step`` and others of MMEngine's schedulers.

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
        """Return the learning rate in an epoch, counted from 0, for a peak rate."""
        t = max(0, epoch - self.late)
        if t < self.warmup_epochs:
            return self.warmup_lr + t / self.warmup_epochs * (peak - self.warmup_lr)
        if t >= self.epochs:
            return self.min_lr
        cosine = 1 + math.cos(math.pi * t / self.epochs)
        return self.min_lr + (peak - self.min_lr) * cosine / 2
