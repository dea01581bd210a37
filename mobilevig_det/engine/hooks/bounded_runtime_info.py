"""A history of what is logged that is no longer than the log needs it."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import LogProcessor, Runner
from torch import Tensor

SLACK = 100  # values more than are needed, before they are cut off
MOST_WAITING = 1000  # values are not held on a device for longer, if nobody reads


def _is_late(device: torch.device) -> bool:
    """Whether who reads a value waits for what the device has to do before."""
    return device.type != 'cpu'


class _LateHistory(HistoryBuffer):
    """A history whose last values are fetched from the device when it is read.

    Copies of it, and what is in checkpoints, are HistoryBuffers.

    Args:
        waiting (list): Histories and their values, of each iteration that was not
            fetched yet; all histories of a training share it.
        history (HistoryBuffer): What there is already.
    """

    def __init__(self, waiting: list, history: HistoryBuffer) -> None:
        self._waiting: list[tuple[list[HistoryBuffer], Tensor]] = waiting
        super().__init__(*history.data)

    def _fetch(self) -> None:
        waiting = self._waiting[:]
        self._waiting.clear()
        for histories, values in waiting:
            for history, number in zip(histories, values.tolist()):
                history.update(number)

    @property
    def _log_history(self) -> np.ndarray:
        self._fetch()
        return self.fetched

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self.fetched = values

    @property
    def _count_history(self) -> np.ndarray:
        self._fetch()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    def shorten(self, length: int) -> None:
        self._log_history = self.fetched[-length:]
        self._count_history = self._counts[-length:]

    def __reduce__(self):
        return HistoryBuffer, self.data


@HOOKS.register_module()
class BoundedRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, which doesn't slow a long training.

    MMEngine keeps every number that was ever logged, copies all of them at each
    iteration, and saves them in each checkpoint. Here as many of each are kept as
    the log processor looks back: its ``window_size`` where it takes a mean, else the
    last one; for its ``custom_cfg`` that window, an epoch's for ``'epoch'``, and all
    for ``'global'``. The log is the same. The histories in checkpoints are MMEngine's
    own, and the long ones of older checkpoints are cut.

    What an iteration logs stays on the device until somebody reads the history, as
    the log does every so many iterations: reading a number has the processor wait
    for the device.
    """

    def __init__(self) -> None:
        self._needed: dict[str, int | None] = {}
        self._waiting: list[tuple[list[HistoryBuffer], Tensor]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Log what the model gave."""
        histories = runner.message_hub.log_scalars
        numbers = dict(outputs or {})
        for group in _scalars(numbers):
            values = torch.stack(list(group.values()))
            keys = [f'train/{name}' for name in group]
            # MMEngine makes the first ones.
            if _is_late(values.device) and all(key in histories for key in keys):
                self._keep(histories, keys, values)
                for name in group:
                    del numbers[name]
            else:
                numbers.update(zip(group, values.tolist()))
        super().after_train_iter(runner, batch_idx, data_batch, numbers)
        self._shorten(runner, histories, SLACK)

    def _keep(self, histories: dict, keys: list[str], values: Tensor) -> None:
        for key in keys:
            if not isinstance(histories[key], _LateHistory):
                histories[key] = _LateHistory(self._waiting, histories[key])
        self._waiting.append(([histories[key] for key in keys], values))
        if len(self._waiting) > MOST_WAITING:
            histories[keys[0]].data  # noqa: B018  fetches

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Histories as long after the first epoch as after the last."""
        self._shorten(runner, checkpoint['message_hub']['log_scalars'])

    def _shorten(self, runner: Runner, histories: dict, slack: int = 0) -> None:
        for key, history in histories.items():
            if key not in self._needed:
                self._needed[key] = _needed(runner, key)
            needed = self._needed[key]
            if needed is None:
                continue
            if isinstance(history, _LateHistory):
                if len(history.fetched) > needed + slack:
                    history.shorten(needed)
                continue
            values, counts = history.data
            if len(values) > needed + slack:
                histories[key] = HistoryBuffer(values[-needed:], counts[-needed:])


def _needed(runner: Runner, key: str) -> int | None:
    """How many values of ``mode/name`` the log looks back; None for all."""
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
        # No validation is cut: the log is done with it when training goes on.
        epoch = len(runner.train_dataloader) if mode == 'train' else 1
        windows = [epoch if window == 'epoch' else window for window in windows]
    if all(isinstance(window, int) and window > 0 for window in windows):
        return max(windows)
    return None


def _scalars(outputs: Mapping) -> list[dict[str, Tensor]]:
    """Every tensor of one value, those of one device and dtype together."""
    groups: dict[tuple, dict[str, Tensor]] = defaultdict(dict)
    for name, value in outputs.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            groups[value.device, value.dtype][name] = value.detach().reshape(())
    return list(groups.values())
