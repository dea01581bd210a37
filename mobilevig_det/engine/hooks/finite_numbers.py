"""Skip and report iterations with NaN or infinite losses or gradients."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    get_rank,
    get_world_size,
    is_distributed,
)
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ...checkpoints.safety import describe_non_finite, non_finite_weights
from ...errors import UserError
from ..launch import NOT_FINITE
from ..training_state import optim_wrappers, unwrapped_model

_MAX_IMAGES = 64  # named in the log, of each rank
_ADVICE = (
    'What to do: look at the images that were named, and at their boxes '
    '(tools/check_data.py); lower the learning rate, or warm up for longer; clip '
    'gradients (optim_wrapper.clip_grad=dict(max_norm=1)); use bfloat16 or float32 '
    'instead of float16. Then resume from the newest checkpoint with --resume.'
)


@HOOKS.register_module()
class FiniteNumbersHook(Hook):
    """Skip the optimizer step if a loss or gradient is NaN or infinite.

    An iteration is skipped if a loss, a gradient or a running statistic of a
    normalization layer isn't finite on any rank. Its losses, gradients and images are
    logged. It doesn't change the model: there is no optimizer step, accumulated
    gradients are dropped, and running statistics are restored. After ``patience``
    skipped iterations in a row the training ends with exit code 3.

    Gradients that overflow float16 because the loss was scaled are not an error:
    torch's GradScaler skips these steps and lowers its scale. At a scale of 1 or less
    they are.

    Replaces MMDetection's CheckInvalidLossHook. Each iteration waits for the device
    once, and all ranks wait for each other once.

    Args:
        patience (int): Number of skipped iterations in a row that end the training.
            Defaults to 10.

    Raises:
        UserError: If ``patience`` is not a positive integer.
    """

    priority = 'HIGH'  # before averages are taken and checkpoints written

    def __init__(self, patience: int = 10) -> None:
        if type(patience) is not int or patience < 1:
            raise UserError(
                'FiniteNumbersHook: patience must be a positive integer, the number of '
                f'bad iterations in a row that end the training, but is {patience!r}.'
            )
        self.patience = patience
        self.bad_in_a_row = 0
        self._handles: list = []

    def before_train(self, runner) -> None:
        """Register hooks on the model and the optimizers."""
        model = unwrapped_model(runner)
        self._parameters = dict(model.named_parameters())
        self._statistics = {
            f'{name}.{key}': buffer
            for name, module in model.named_modules()
            if isinstance(module, _NormBase)
            for key, buffer in module.named_buffers(recurse=False)
        }
        self._backup = [buffer.clone() for buffer in self._statistics.values()]
        self._wrappers = list(optim_wrappers(runner).values())
        # The losses are kept for the step, so that the device is waited for once.
        self._handles = [
            runner.model.register_forward_hook(self._keep_losses),
            *(
                w.optimizer.register_step_pre_hook(self._before_step)
                for w in self._wrappers
            ),
        ]

    def after_train(self, runner) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Back up the running statistics."""
        self._losses: dict[str, Tensor] = {}
        self._checked = self._bad = False
        self._found: list[str] = []
        _copy(self._statistics.values(), self._backup)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Undo and report a bad iteration; end the training after many."""
        if not self._checked:
            self._check_without_step()
        if not self._bad:
            self.bad_in_a_row = 0
            return
        _copy(self._backup, self._statistics.values())
        self.bad_in_a_row += 1
        report = self._report(data_batch)
        if get_rank() == 0:
            runner.logger.error(
                f'Iteration {runner.iter + 1} is skipped: its numbers are not finite '
                f'({self.bad_in_a_row} in a row, {self.patience} end the training).'
                + ''.join(f'\n  {line}' for line in report)
            )
        if self.bad_in_a_row >= self.patience:
            self._stop(runner)

    def _keep_losses(self, model: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Mapping):  # not predictions
            self._losses = dict(_losses(output))

    def _before_step(self, optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        # GradScaler tells a fused optimizer of an overflow, which then skips the step
        # by itself; it doesn't call other optimizers at all.
        overflow = getattr(optimizer, 'found_inf', None)
        gradients = self._gradients(optimizer) if overflow is None else {}
        if self._check(gradients, overflow):
            self._check_scale()
        if self._bad:
            _drop_gradients(optimizer)

    def _check_without_step(self) -> None:
        """Gradients are being accumulated, or GradScaler skipped the step."""
        gradients, overflow = {}, False
        for wrapper in self._wrappers:
            if not hasattr(wrapper, 'loss_scaler'):
                gradients.update(self._gradients(wrapper.optimizer))
            elif wrapper.should_update():
                overflow = True
        self._check(gradients)
        if overflow:
            self._check_scale()
        if self._bad:
            for wrapper in self._wrappers:
                _drop_gradients(wrapper.optimizer)

    def _check_scale(self) -> None:
        """Report overflowed gradients, unless the loss scale explains them."""
        scales = [
            w.loss_scaler.get_scale()
            for w in self._wrappers
            if hasattr(w, 'loss_scaler')
        ]
        if max(scales) <= 1:
            self._bad = True
            self._found.append('gradients, though the loss is scaled by 1 or less')

    def _gradients(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        own = {id(p) for group in optimizer.param_groups for p in group['params']}
        return {
            name: parameter.grad
            for name, parameter in self._parameters.items()
            if parameter.grad is not None and id(parameter) in own
        }

    def _check(
        self, gradients: dict[str, Tensor], overflow: Tensor | None = None
    ) -> bool:
        """Check on all ranks whether all numbers are finite, and record which aren't.

        Returns:
            bool: Whether ``overflow``, on the device, is set on any rank.
        """
        kinds = {
            'losses': self._losses,
            'gradients': gradients,
            'statistics': self._statistics,
        }
        tensors = [t for kind in kinds.values() for t in kind.values()]
        bad = ~_all_finite(tensors, next(iter(self._parameters.values())).device)
        flags = torch.stack(
            [bad, torch.zeros_like(bad) if overflow is None else overflow.squeeze() > 0]
        ).int()
        if is_distributed():
            all_reduce(flags, 'max')
        any_bad, overflowed = map(bool, flags.tolist())
        self._checked = True
        if not any_bad:
            return overflowed
        self._bad = True
        for kind, named in kinds.items():
            counts = non_finite_weights(named)
            if counts and kind == 'losses':
                self._found.append(f'losses that are not finite: {", ".join(counts)}')
            elif counts:
                self._found.append(f'{kind}: {describe_non_finite(counts)}')
        return overflowed

    def _report(self, data_batch: Any) -> list[str]:
        """Return the findings of all ranks, on each of them."""
        losses = ', '.join(
            f'{name} {float(value):.4g}' for name, value in self._losses.items()
        )
        names = _image_names(data_batch)
        more = f', ... ({len(names)} in all)' if len(names) > _MAX_IMAGES else ''
        images = ', '.join(names[:_MAX_IMAGES]) + more
        own = [f'losses: {losses}', *self._found, f'images: {images}']
        if get_world_size() == 1:
            return own
        return [
            f'process {rank}: {line}'
            for rank, lines in enumerate(all_gather_object(own))
            for line in lines
        ]

    def _stop(self, runner) -> None:
        counts = non_finite_weights({**self._parameters, **self._statistics})
        state = (
            'The weights themselves are bad, from an earlier step or from the loaded '
            f'file: {describe_non_finite(counts)}. Resume from an older checkpoint.'
            if counts
            else 'The weights are finite: those of the last good iteration.'
        )
        message = (
            f'Training ends: {self.bad_in_a_row} iterations in a row had losses, '
            f'gradients or statistics that are not finite (FiniteNumbersHook, '
            f'patience={self.patience}). {state} {_ADVICE}'
        )
        if get_rank() == 0:
            runner.logger.error(message)
        self.after_train(runner)
        raise SystemExit(NOT_FINITE)


def _losses(output: Mapping) -> Iterable[tuple[str, Tensor]]:
    """Yield loss terms as scalars, as MMEngine's ``parse_losses`` sums them up."""
    for name, value in output.items():
        if 'loss' not in name:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        values = [v.detach().mean() for v in values if isinstance(v, Tensor)]
        if values:
            yield name, torch.stack(values).sum()


def _copy(source: Iterable[Tensor], target: Iterable[Tensor]) -> None:
    source, target = list(source), list(target)
    if source:
        with torch.no_grad():
            torch._foreach_copy_(target, source)


def _all_finite(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return a bool on the device, without waiting for it."""
    groups: dict[tuple, list[Tensor]] = {}
    for tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.is_sparse:
            tensor = tensor.coalesce().values()
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    finite = torch.ones((), dtype=torch.bool, device=device)
    for group in groups.values():
        # The largest value, not the sum of squares, which overflows earlier.
        largest = torch._foreach_norm(group, float('inf'))
        finite = finite & torch.stack(largest).isfinite().all().to(device)
    return finite


def _drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group['params']:
            parameter.grad = None


def _image_names(batch: Any) -> list[str]:
    """Return the paths of a batch's images, or their ids if they have no paths.

    Args:
        batch (Any): Data samples, nested in dicts and lists.
    """
    info = getattr(batch, 'metainfo', None)
    if isinstance(info, Mapping):
        name = info.get('img_path', info.get('img_id'))
        return [] if name is None else [str(name)]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return [name for part in batch for name in _image_names(part)]
    return []
