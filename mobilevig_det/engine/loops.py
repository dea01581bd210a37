"""Training loops that resume in the middle of an epoch."""

from collections.abc import Iterator
from typing import cast

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..deprecation import deprecated_type
from .data_order import (
    OrderedBatches,
    base_sampler,
    random_stream,
    with_ordered_batches,
)
from .training_state import preserve_random_states


class _ResumableLoop:
    """The part that both loops share."""

    runner: Runner
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    _iter: int

    def _batches_from(self, epoch: int, first: int) -> Iterator:
        """Iterate over the loader's batches from the given one on.

        Starting workers draws random numbers, which must not be the training's.
        """
        batches = cast(OrderedBatches, self.dataloader.batch_sampler)
        batches.start(self.runner.seed, epoch, first)
        with random_stream(self.runner.seed, 'loader', epoch):
            return iter(self.dataloader)

    def _restore_sampler_seed(self) -> None:
        """MMEngine draws the sampler's seed if the config has none."""
        sampler, hub = base_sampler(self.dataloader), self.runner.message_hub
        if isinstance(getattr(sampler, 'seed', None), int):
            sampler.seed = hub.runtime_info.get('sampler_seed', sampler.seed)
            hub.update_info('sampler_seed', sampler.seed)

    def _validation_was_interrupted(self) -> bool:
        info = self.runner.message_hub.runtime_info
        return 0 < self._iter and info.get('validated_iter', self._iter) < self._iter

    def _validate_if_due(self, done: int, total: int) -> None:
        """Validate as MMEngine does, without using the training's random numbers.

        Args:
            done (int): Completed epochs, or iterations.
            total (int): Epochs or iterations of the training.
        """
        self._decide_current_val_interval()  # type: ignore[attr-defined]
        if (
            self.runner.val_loop is not None
            and done >= self.val_begin
            and (done % self.val_interval == 0 or done == total)
        ):
            with preserve_random_states():
                self.runner.val_loop.run()


def _build_loader(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """Build a loader as MMEngine's BaseLoop does."""
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

    The samples of an epoch that were seen are skipped by index, without loading them.
    With :class:`~mobilevig_det.engine.DurableCheckpointHook` an interrupted and
    resumed run is bit-identical to an uninterrupted one: validations don't use the
    training's random numbers, and one that was interrupted is repeated first.
    Augmentation doesn't depend on the number of workers.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        *args: See :class:`mmengine.runner.EpochBasedTrainLoop`.
        **kwargs: Likewise.

    Raises:
        UserError: If the data has no indices.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs):
        loader = _build_loader(runner, dataloader)
        super().__init__(
            runner, with_ordered_batches(loader, endless=False), *args, **kwargs
        )
        self._first = 0  # batches of this epoch that were done before resuming

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        self._restore_sampler_seed()
        self._find_position()
        if self._first == 0 and self._validation_was_interrupted():
            self._validate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or the rest of it."""
        first, self._first = self._first, 0
        self.runner.message_hub.update_info(
            'epoch_start', [self._epoch, self._iter - first, len(self.dataloader)]
        )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, batch in enumerate(self._batches_from(self._epoch, first), first):
            self.run_iter(idx, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _find_position(self) -> None:
        """Compute how much of the epoch the checkpoint has seen."""
        length = len(self.dataloader)
        # MMEngine's own hook doesn't save it.
        epoch, start, old_length = self.runner.message_hub.runtime_info.get(
            'epoch_start', [self._epoch, self._epoch * length, length]
        )
        seen = max(0, self._iter - start) if epoch == self._epoch else 0
        self._first = min(length, round(seen * length / old_length))
        if seen and length != old_length:
            self.runner.logger.warning(
                f'An epoch has {length} batches now, and had {old_length}: batch '
                f'{seen} of it became {self._first}. Learning rates that change by '
                'iteration continue by iteration.'
            )


@LOOPS.register_module()
class ResumableIterTrainLoop(_ResumableLoop, IterBasedTrainLoop):
    """IterBasedTrainLoop that resumes without loading the data that was seen.

    The iteration-based :class:`ResumableEpochTrainLoop`. A sampler that ends is
    restarted, in its order of the next epoch.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        *args: See :class:`mmengine.runner.IterBasedTrainLoop`.
        **kwargs: Likewise.

    Raises:
        UserError: If the data has no indices.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs):
        loader = _build_loader(runner, dataloader)
        # MMEngine begins to load here, before the first batch is known.
        super().__init__(runner, DataLoader(loader.dataset), *args, **kwargs)
        self.dataloader = with_ordered_batches(loader, endless=True)

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        self._restore_sampler_seed()
        self.runner.call_hook('before_train_epoch')
        if self._validation_was_interrupted():
            self._validate_if_due(self._iter, self._max_iters)
        self.dataloader_iterator = self._batches_from(0, self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


SurvivingEpochTrainLoop = deprecated_type(
    'SurvivingEpochTrainLoop', ResumableEpochTrainLoop, LOOPS
)
SurvivingIterTrainLoop = deprecated_type(
    'SurvivingIterTrainLoop', ResumableIterTrainLoop, LOOPS
)
