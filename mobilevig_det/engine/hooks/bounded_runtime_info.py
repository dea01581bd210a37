"""A history of what is logged that is no longer than the log needs it."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import LogProcessor, Runner
from torch import Tensor

SLACK = 100  # values more than are needed, before they are cut off


@HOOKS.register_module()
class BoundedRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, which doesn't slow a long training.

    MMEngine keeps every number that was ever logged, copies all of them at each
    iteration, and saves them in each checkpoint. Here as many of each are kept as
    the log processor looks back: its ``window_size`` where it takes a mean, else the
    last one; for its ``custom_cfg`` that window, an epoch's for ``'epoch'``, and all
    for ``'global'``. The log is the same. The histories in checkpoints are MMEngine's
    own, and the long ones of older checkpoints are cut.

    What an iteration logs leaves the device together, not number by number, which
    would have the processor wait for the device as often.
    """

    def __init__(self) -> None:
        self._needed: dict[str, int | None] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Log what the model gave."""
        if outputs is not None:
            outputs = _to_numbers(outputs)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._shorten(runner, runner.message_hub.log_scalars, SLACK)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Histories as long after the first epoch as after the last."""
        self._shorten(runner, checkpoint['message_hub']['log_scalars'])

    def _shorten(self, runner: Runner, histories: dict, slack: int = 0) -> None:
        for key, history in histories.items():
            if key not in self._needed:
                self._needed[key] = _needed(runner, key)
            needed = self._needed[key]
            values, counts = history.data
            if needed is not None and len(values) > needed + slack:
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


def _to_numbers(outputs: Mapping) -> dict:
    """Every tensor of one value as ``item()`` gives it."""
    numbers = dict(outputs)
    groups: dict[tuple, dict[str, Tensor]] = defaultdict(dict)
    for name, value in outputs.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            groups[value.device, value.dtype][name] = value.detach().reshape(())
    for group in groups.values():
        numbers.update(zip(group, torch.stack(list(group.values())).tolist()))
    return numbers
