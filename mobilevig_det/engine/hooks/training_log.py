"""Log a training without slowing or ending it: bounded history, failing disks."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import HOOKS, VISBACKENDS
from mmengine.runner import LogProcessor, Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor

from ...deprecation import deprecated_type

SLACK = 100  # values beyond the needed ones, before the history is cut
MAX_PENDING = 1000  # values are kept on a device no longer than this


def _reads_wait(device: torch.device) -> bool:
    """Return whether reading a value waits for the device's queued work."""
    return device.type != 'cpu'


class _DeferredHistory(HistoryBuffer):
    """History whose newest values are fetched from the device when it is read.

    Copies of it, as in checkpoints, are HistoryBuffers.

    Args:
        pending (list): Histories and their values for each iteration that was not
            fetched yet; shared by all histories of a training.
        history (HistoryBuffer): The values so far.
    """

    _count_history: np.ndarray

    def __init__(self, pending: list, history: HistoryBuffer) -> None:
        self._pending: list[tuple[list[HistoryBuffer], Tensor]] = pending
        super().__init__(*history.data)

    def _fetch(self) -> None:
        pending = self._pending[:]
        self._pending.clear()
        for histories, values in pending:
            for history, number in zip(histories, values.tolist()):
                history.update(number)

    # All methods of HistoryBuffer read this attribute, before any other.

    @property
    def _log_history(self) -> np.ndarray:
        self._fetch()
        return self.fetched

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self.fetched = values

    def shorten(self, length: int) -> None:
        self.fetched = self.fetched[-length:]
        self._count_history = self._count_history[-length:]

    def __reduce__(self):
        return HistoryBuffer, self.data


@HOOKS.register_module()
class BoundedRuntimeInfoHook(RuntimeInfoHook):
    """RuntimeInfoHook that keeps only the history that the log needs.

    MMEngine keeps every logged number, copies all of them in each iteration, and saves
    them in each checkpoint, which slows long trainings. This hook keeps as many as the
    log processor looks back: its ``window_size`` if it takes a mean, otherwise the last
    one; for its ``custom_cfg`` that window, an epoch's for ``'epoch'``, and all for
    ``'global'``. The log is the same. Checkpoints hold MMEngine's own type of history,
    and long ones of older checkpoints are cut.

    The numbers of an iteration stay on the device until the history is read, which the
    log does once in its interval, because reading waits for the device.
    """

    def __init__(self) -> None:
        self._needed: dict[str, int | None] = {}
        self._pending: list[tuple[list[HistoryBuffer], Tensor]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Log the model's outputs."""
        histories = runner.message_hub.log_scalars
        numbers = dict(outputs or {})
        for group in _scalars(numbers):
            values = torch.stack(list(group.values()))
            keys = [f'train/{name}' for name in group]
            # MMEngine creates the histories in the first iteration.
            if _reads_wait(values.device) and all(key in histories for key in keys):
                self._defer(histories, keys, values)
                for name in group:
                    del numbers[name]
            else:
                numbers.update(zip(group, values.tolist()))
        super().after_train_iter(runner, batch_idx, data_batch, numbers)
        self._shorten(runner, histories, SLACK)

    def _defer(self, histories: dict, keys: list[str], values: Tensor) -> None:
        for key in keys:
            if not isinstance(histories[key], _DeferredHistory):
                histories[key] = _DeferredHistory(self._pending, histories[key])
        self._pending.append(([histories[key] for key in keys], values))
        if len(self._pending) > MAX_PENDING:
            histories[keys[0]]._fetch()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Cut the histories in the checkpoint, so that its size stays the same."""
        self._shorten(runner, checkpoint['message_hub']['log_scalars'])

    def _shorten(self, runner: Runner, histories: dict, slack: int = 0) -> None:
        for key, history in histories.items():
            if key not in self._needed:
                self._needed[key] = _needed_length(runner, key)
            needed = self._needed[key]
            if needed is None:
                continue
            if isinstance(history, _DeferredHistory):
                if len(history.fetched) > needed + slack:
                    history.shorten(needed)
            elif len(history.data[0]) > needed + slack:
                histories[key] = HistoryBuffer(*(d[-needed:] for d in history.data))


def _needed_length(runner: Runner, key: str) -> int | None:
    """Return how many values of ``mode/name`` the log uses; None for all."""
    processor = runner.log_processor
    mode, _, name = key.partition('/')
    if mode not in ('train', 'val', 'test') or not isinstance(processor, LogProcessor):
        return None
    takes_mean = any(processor.mean_pattern.search(text) for text in (key, name))
    windows: list[Any] = [processor.window_size if takes_mean else 1]
    for entry in processor.custom_cfg:
        if entry['data_src'] == name and entry.get('method_name') != 'current':
            windows.append(entry.get('window_size'))
    if 'epoch' in windows:
        # Validations aren't cut: they are logged before the training continues.
        epoch = len(runner.train_dataloader) if mode == 'train' else 1
        windows = [epoch if window == 'epoch' else window for window in windows]
    if all(isinstance(window, int) and window > 0 for window in windows):
        return max(windows)
    return None


def _scalars(outputs: Mapping) -> list[dict[str, Tensor]]:
    """Group the tensors of one value by device and dtype."""
    groups: dict[tuple, dict[str, Tensor]] = defaultdict(dict)
    for name, value in outputs.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            groups[value.device, value.dtype][name] = value.detach().reshape(())
    return list(groups.values())


@VISBACKENDS.register_module()
class FaultTolerantLocalVisBackend(LocalVisBackend):
    """LocalVisBackend that skips points that can't be written.

    A full disk doesn't end the training: the first point that can't be written is
    logged as an error, and later points are tried again.

    Args:
        *args: See :class:`mmengine.visualization.LocalVisBackend`.
        **kwargs: Likewise.
    """

    _reported = False

    def add_scalar(self, *args, **kwargs) -> None:
        """Append one value, or skip it if it can't be written."""
        self._write(super().add_scalar, *args, **kwargs)

    def add_scalars(self, *args, **kwargs) -> None:
        """Append several values, or skip them if they can't be written."""
        self._write(super().add_scalars, *args, **kwargs)

    def _write(self, add: Callable, *args, **kwargs) -> None:
        try:
            path = self.experiment._scalar_save_file  # experiment makes its folder
            size = os.path.getsize(path) if os.path.exists(path) else 0
            try:
                add(*args, **kwargs)
            except OSError:
                os.truncate(path, size)  # an incomplete line would break the next
                raise
        except OSError as error:
            if not self._reported:
                print_log(
                    f'Losses and metrics cannot be written ({error}): points are '
                    'skipped until they can. The training continues.',
                    'current',
                    level=logging.ERROR,
                )
            self._reported = True


SurvivingLocalVisBackend = deprecated_type(
    'SurvivingLocalVisBackend', FaultTolerantLocalVisBackend, VISBACKENDS
)
