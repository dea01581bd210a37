"""Losses and gradients that are not finite: named, left out, and not for long."""

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
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ...checkpoints.safety import describe_non_finite, non_finite_weights
from ...errors import UserError
from ..batch_images import image_names
from ..exit_codes import NOT_FINITE

MOST_IMAGES = 64  # named, of a process
ADVICE = (
    'What to do: look at the images that were named, and at their boxes '
    '(tools/check_data.py); lower the learning rate, or warm up for longer; clip '
    'gradients (optim_wrapper.clip_grad=dict(max_norm=1)); leave float16 for '
    'bfloat16 or float32. Then go on from the newest checkpoint: --resume.'
)


@HOOKS.register_module()
class FiniteNumbersHook(Hook):
    """Takes no step with a loss or gradient that is NaN or infinite.

    An iteration is bad if a loss, a gradient or a running statistic of a norm is
    not finite, in any process. It is named in the log: its losses, gradients and
    images. It leaves no trace in the model: no step is taken, the gradients that
    were accumulated so far are dropped, and the norms' statistics are those of
    before. After ``patience`` bad ones in a row the training ends with exit code 3.

    Gradients that overflow float16 because the loss was scaled are not bad:
    torch's GradScaler leaves these steps out, and lowers its scale. At a scale of
    1 or less the scale is not to blame, and they are.

    Takes the place of MMDetection's CheckInvalidLossHook. The processor waits for
    the device once an iteration, and all processes once for each other.

    Args:
        patience (int): How many bad iterations in a row end the training.
            Defaults to 10.

    Raises:
        UserError: If patience is not a positive integer.
    """

    priority = 'HIGH'  # before averages are taken and checkpoints written

    def __init__(self, patience: int = 10) -> None:
        if type(patience) is not int or patience < 1:
            raise UserError(
                f'FiniteNumbersHook: patience must be a positive integer, the bad '
                f'iterations in a row that end the training, but got {patience!r}.'
            )
        self.patience = patience
        self.bad_in_a_row = 0
        self._handles: list = []

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._parameters = dict(model.named_parameters())
        norms = [
            (f'{name}.{key}', buffer)
            for name, module in model.named_modules()
            if isinstance(module, _NormBase)
            for key, buffer in module.named_buffers(recurse=False)
        ]
        self._statistics = dict(norms)
        self._kept = [buffer.clone() for buffer in self._statistics.values()]
        wrapper = runner.optim_wrapper
        self._wrappers = (
            list(wrapper.values())
            if isinstance(wrapper, OptimWrapperDict)
            else [wrapper]
        )
        # The losses are seen before the step, so that one look serves both.
        self._handles = [
            runner.model.register_forward_hook(self._see_losses),
            *(
                w.optimizer.register_step_pre_hook(self._before_step)
                for w in self._wrappers
            ),
        ]

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._losses: dict[str, Tensor] = {}
        self._judged = self._bad = False
        self._found: list[str] = []
        _copy(self._statistics.values(), self._kept)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        if not self._judged:
            self._without_a_step()
        if not self._bad:
            self.bad_in_a_row = 0
            return
        _copy(self._kept, self._statistics.values())
        self.bad_in_a_row += 1
        report = self._report(data_batch)
        if get_rank() == 0:
            runner.logger.error(
                f'Iteration {runner.iter + 1} is left out, its numbers are not finite '
                f'({self.bad_in_a_row} in a row, {self.patience} end the training).'
                + ''.join(f'\n  {line}' for line in report)
            )
        if self.bad_in_a_row >= self.patience:
            self._stop(runner)

    def _see_losses(self, model: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Mapping):  # not what is predicted
            self._losses = dict(_losses(output))

    def _before_step(self, optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        # A fused optimizer is told what GradScaler found, and leaves out the step
        # by itself; others are not even called then.
        overflow = getattr(optimizer, 'found_inf', None)
        gradients = self._gradients(optimizer) if overflow is None else {}
        if self._judge(gradients, overflow):
            self._blame_scale()
        if self._bad:
            _drop_gradients(optimizer)

    def _without_a_step(self) -> None:
        """Gradients are being accumulated, or GradScaler left out the step."""
        gradients, overflow = {}, False
        for wrapper in self._wrappers:
            if not hasattr(wrapper, 'loss_scaler'):
                gradients.update(self._gradients(wrapper.optimizer))
            elif wrapper.should_update():
                overflow = True
        self._judge(gradients)
        if overflow:
            self._blame_scale()
        if self._bad:
            for wrapper in self._wrappers:
                _drop_gradients(wrapper.optimizer)

    def _blame_scale(self) -> None:
        """Gradients overflowed: it is no finding if their scale made them."""
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

    def _judge(
        self, gradients: dict[str, Tensor], overflow: Tensor | None = None
    ) -> bool:
        """Look whether all is finite, in all processes; if not, what is not.

        Returns:
            bool: Whether ``overflow``, on the device, is set in any process.
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
        self._judged = True
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
        """Of all processes, what was found and where; the same in each."""
        losses = ', '.join(
            f'{name} {float(value):.4g}' for name, value in self._losses.items()
        )
        names = image_names(data_batch)
        more = f', … ({len(names)} in all)' if len(names) > MOST_IMAGES else ''
        images = ', '.join(names[:MOST_IMAGES]) + more
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
            f'The weights themselves are bad, by an earlier step or from the file '
            f'that was loaded: {describe_non_finite(counts)}; only an older '
            'checkpoint helps.'
            if counts
            else 'The weights are finite, those of the last good iteration.'
        )
        message = (
            f'Training ends: {self.bad_in_a_row} iterations in a row had losses, '
            f'gradients or statistics that are not finite (FiniteNumbersHook, '
            f'patience={self.patience}). {state} {ADVICE}'
        )
        if get_rank() == 0:
            runner.logger.error(message)
        self.after_train(runner)
        raise SystemExit(NOT_FINITE)


def _losses(output: Mapping) -> Iterable[tuple[str, Tensor]]:
    """Loss terms, as MMEngine's ``parse_losses`` sums them up: scalars."""
    for name, value in output.items():
        if 'loss' not in name:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        values = [v.detach().mean() for v in values if isinstance(v, Tensor)]
        if values:
            yield name, torch.stack(values).sum()


def _copy(source: Iterable[Tensor], target: Iterable[Tensor]) -> None:
    source, target = list(source), list(target)
    with torch.no_grad():
        if source and hasattr(torch, '_foreach_copy_'):
            torch._foreach_copy_(target, source)
        else:
            for a, b in zip(source, target):
                b.copy_(a)


def _all_finite(tensors: list[Tensor], device: torch.device) -> Tensor:
    """A bool on the device: nobody waits for it here."""
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
