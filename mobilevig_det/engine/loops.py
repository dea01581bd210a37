"""MMEngine's training loops, which go on in the middle of an epoch."""

from collections.abc import Iterator
from typing import cast

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..deprecation import deprecated_type
from .data_order import OrderedBatches, base_sampler, with_ordered_batches
from .random_states import own_stream, stream_kept


class _ResumableLoop:
    """What both loops share."""

    runner: Runner
    dataloader: DataLoader
    _epoch: int
    _iter: int

    def _iterate(self, epoch: int, first: int) -> Iterator:
        """The loader's batches from the given one on.

        Starting workers draws random numbers; they are not the training's.
        """
        batches = cast(OrderedBatches, self.dataloader.batch_sampler)
        batches.start(self.runner.seed, epoch, first)
        with own_stream(self.runner.seed, 'loader', epoch):
            return iter(self.dataloader)

    def _validate(self) -> None:
        """Validate, and have the training draw as if that had not been."""
        with stream_kept():
            self.runner.val_loop.run()

    def _keep_order(self) -> None:
        """The sampler's seed, which MMEngine draws where the config has none."""
        sampler, hub = base_sampler(self.dataloader), self.runner.message_hub
        if isinstance(getattr(sampler, 'seed', None), int):
            sampler.seed = hub.runtime_info.get('sampler_seed', sampler.seed)
            hub.update_info('sampler_seed', sampler.seed)

    def _was_validated(self) -> bool:
        """Whether no validation of this iteration was cut off."""
        info = self.runner.message_hub.runtime_info
        return info.get('validated_iter', self._iter) >= self._iter


def _build_loader(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """As MMEngine's BaseLoop builds it."""
    if isinstance(dataloader, DataLoader):
        return dataloader
    return runner.build_dataloader(
        dataloader,
        seed=runner.seed,
        diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
    )


@LOOPS.register_module()
class ResumableEpochTrainLoop(_ResumableLoop, EpochBasedTrainLoop):
    """EpochBasedTrainLoop that resumes at the next iteration.

    What an epoch has seen is passed over by indices, without loading it. An
    interrupted and resumed run ends as one that was not, with
    :class:`~mobilevig_det.engine.hooks.DurableCheckpointHook`: validations
    draw nothing from the training's random stream, and one that was cut off is
    done first. Augmentation doesn't depend on the number of workers.

    Args:
        As EpochBasedTrainLoop's.

    Raises:
        UserError: If the data has no indices.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs):
        loader = _build_loader(runner, dataloader)
        super().__init__(
            runner, with_ordered_batches(loader, endless=False), *args, **kwargs
        )
        self._first = 0  # batches of this epoch that an earlier process did

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        self._keep_order()
        self._find_position()
        if self._iter > 0 and self._first == 0 and not self._was_validated():
            self._maybe_validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._maybe_validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        first, self._first = self._first, 0
        self.runner.message_hub.update_info(
            'epoch_start', [self._epoch, self._iter - first, len(self.dataloader)]
        )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, batch in enumerate(self._iterate(self._epoch, first), first):
            self.run_iter(idx, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _find_position(self) -> None:
        """How much of the epoch the checkpoint has seen."""
        length = len(self.dataloader)
        # Without: a file of MMEngine's own hook.
        epoch, start, old_length = self.runner.message_hub.runtime_info.get(
            'epoch_start', [self._epoch, self._epoch * length, length]
        )
        seen = max(0, self._iter - start) if epoch == self._epoch else 0
        self._first = min(length, round(seen * length / old_length))
        if seen and length != old_length:
            self.runner.logger.warning(
                f'An epoch has {length} batches now, and had {old_length}: '
                f'batch {seen} of it became {self._first}. Rates that are set by '
                'iteration go on by iteration.'
            )

    def _maybe_validate(self) -> None:
        self._decide_current_val_interval()
        if (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (
                self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
            )
        ):
            self._validate()


@LOOPS.register_module()
class ResumableIterTrainLoop(_ResumableLoop, IterBasedTrainLoop):
    """IterBasedTrainLoop that resumes without loading what was seen.

    As :class:`ResumableEpochTrainLoop`, for iterations. Data that ends is begun
    again, in the sampler's order of the next epoch.

    Args:
        As IterBasedTrainLoop's.

    Raises:
        UserError: If the data has no indices.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs):
        loader = _build_loader(runner, dataloader)
        # MMEngine starts the workers here, before it's known where to begin.
        super().__init__(
            runner, with_ordered_batches(loader, True, num_workers=0), *args, **kwargs
        )
        self.dataloader = with_ordered_batches(loader, endless=True)

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        self._keep_order()
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0 and not self._was_validated():
            self._maybe_validate()
        self.dataloader_iterator = self._iterate(0, self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._maybe_validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _maybe_validate(self) -> None:
        self._decide_current_val_interval()
        if (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        ):
            self._validate()


SurvivingEpochTrainLoop = deprecated_type(
    'SurvivingEpochTrainLoop', ResumableEpochTrainLoop, LOOPS
)
SurvivingIterTrainLoop = deprecated_type(
    'SurvivingIterTrainLoop', ResumableIterTrainLoop, LOOPS
)
