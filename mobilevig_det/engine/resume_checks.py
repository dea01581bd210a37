"""Compare a checkpoint with the run that resumes from it.

Some of torch's optimizer kernels read and write as far as a parameter's shape says,
whatever the size of the loaded moments. So nothing is restored before all fits.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from ..errors import UserError
from .checkpoint_schema import (
    COUNT,
    Kind,
    Malformed,
    check_structure,
    check_training_checkpoint,
    kind_of,
    need,
)
from .training_state import optim_wrappers, schedulers_by_name, unwrapped_model

# Options of torch's optimizers that choose the implementation, not the result.
_IMPLEMENTATION = {'foreach', 'fused', 'capturable', 'differentiable'}
# Entries of optimizers and of MMEngine's schedulers that are not settings.
_PROGRESS = {
    *('params', 'last_step', '_global_step', '_last_value', 'base_values', 'verbose'),
    *('best', 'num_bad_epochs', 'cooldown_counter'),
}
_OPTIMIZER = {
    'param_groups': [{'params': [COUNT]}],
    'state': Kind(
        'a dict of dicts',
        lambda value: (
            isinstance(value, dict)
            and all(isinstance(each, dict) for each in value.values())
        ),
    ),
    'base_param_settings?': {},
}
_ADVICE = (
    'Use the config that the checkpoint was trained with; or begin a new run, in '
    'another work dir, with these weights: load_from=FILE, without --resume.'
)
_APPLY = (
    "To apply the config's, resume with "
    '--cfg-options default_hooks.checkpoint.resume_hyperparameters=False'
)


def prepare_resume(runner: Runner, checkpoint: dict, keep: bool) -> bool:
    """Check a checkpoint against a run, and report hyperparameters that differ.

    Args:
        runner (Runner): Its optimizer and schedulers are built, and nothing is loaded.
        checkpoint (dict): Changed, so that MMEngine restores what is to be restored.
        keep (bool): Whether the checkpoint's hyperparameters of the optimizer and its
            schedulers are kept, or replaced by the config's.

    Returns:
        bool: Whether the checkpoint's hyperparameters and schedulers are restored.
        Otherwise the config's are to be advanced, see ``advance_schedulers``.

    Raises:
        UserError: If an entry is malformed or does not fit the run.
    """
    name = str(runner._load_from)
    check_training_checkpoint(checkpoint, name)
    checkpoint['meta'].pop('config', None)  # MMEngine would run it as a Python file
    own_parts = {'optimizer': optim_wrappers(runner)}
    if runner.param_schedulers:
        own_parts['param_schedulers'] = schedulers_by_name(runner)
    for key in own_parts:
        if key not in checkpoint:
            runner.logger.warning(
                f'{name} has no entry {key!r}: the learning rate, its schedule and '
                "the optimizer's settings are those of the config."
            )
            keep = False
    if not keep:
        checkpoint.pop('param_schedulers', None)
    changes: dict[str, str] = {}
    advice = _ADVICE
    try:
        _check_weights(runner, checkpoint)
        for key, own in own_parts.items():
            if key not in checkpoint:
                continue
            saved = checkpoint[key] if '' not in own else {'': checkpoint[key]}
            good = isinstance(saved, dict) and saved.keys() == own.keys()
            need(good, key, f'a dict of {", ".join(own)}', saved)
            for part in own:
                if key == 'optimizer':
                    changes |= _check_optimizer(runner, own[part], saved[part], keep)
                else:
                    advice = f'{_APPLY}. {_ADVICE}'
                    changes |= _check_schedulers(own[part], saved[part])
    except Malformed as problem:
        raise UserError(f'{name} does not fit this run: {problem}. {advice}') from None
    if keep and changes:
        runner.logger.warning(
            'The learning rate, its schedule or the optimizer differ between the '
            "checkpoint and the config, and the checkpoint's are kept: "
            f'{"; ".join(changes.values())}. {_APPLY}.'
        )
    return keep


def _check_weights(runner: Runner, checkpoint: dict) -> None:
    """Compare the shapes of weights, averaged weights and accumulated gradients."""
    own = unwrapped_model(runner).state_dict()
    averaged = checkpoint.get('ema_state_dict', {})
    states = checkpoint.get('training_state', {}).get('of_each', [])
    gradients = [state['gradients'] for state in states]
    for tensors in (checkpoint['state_dict'], averaged, *gradients):
        for key, value in tensors.items():
            like = own.get(key.removeprefix('module.'), value)
            shape = f'of shape {tuple(like.shape)}'
            need(value.shape == like.shape, key, shape, value)
    for key in averaged:
        if key.startswith('module.') and key[7:] not in checkpoint['state_dict']:
            raise Malformed(f'ema_state_dict has {key}, and state_dict has not')


def _check_optimizer(
    runner: Runner, wrapper: Any, saved: dict, keep: bool
) -> dict[str, str]:
    """Compare an optimizer's state with its parameters; return changed settings."""
    check_structure(saved, _OPTIMIZER, 'optimizer')
    optimizer, states = wrapper.optimizer, saved['state']
    found, wanted = (
        [len(group['params']) for group in groups]
        for groups in (saved['param_groups'], optimizer.param_groups)
    )
    if found != wanted:
        raise Malformed(
            f'its optimizer has {sum(found)} parameters in {len(found)} groups, and '
            f"this model's {sum(wanted)} in {len(wanted)}"
        )
    indices = [index for group in saved['param_groups'] for index in group['params']]
    if len({*indices}) != len(indices) or not {*states} <= {*indices}:
        raise Malformed("the optimizer's indices of parameters are not unique")
    changes: dict[str, str] = {}
    another = f'its optimizer is not the {type(optimizer).__name__} of the config'
    pairs = list(zip(saved['param_groups'], optimizer.param_groups))
    base, own_base = saved.pop('base_param_settings', None), wrapper.base_param_settings
    if keep and base and own_base:  # the settings of a group without parameters
        saved['base_param_settings'] = {**base, 'params': own_base['params']}
        pairs.append((saved['base_param_settings'], own_base))
    for group, own in pairs:
        for key, value in own.items():
            # What a newer torch, or a schedule, adds is no sign of another optimizer.
            added = (
                value is None or isinstance(value, bool) or key.startswith('initial_')
            )
            replace = not keep or key in _IMPLEMENTATION
            if key != 'params' and (replace or (added and key not in group)):
                group[key] = value
        keys = own.keys() - {'params'}
        _need_alike(group, own, keys, 'the optimizer', another)
        changes |= _changed_settings(group, own)
    if 'loss_scaler' in saved and hasattr(wrapper, 'loss_scaler'):
        check_structure(saved['loss_scaler'], {}, 'loss_scaler')
        own = wrapper.loss_scaler.state_dict()
        keys = own.keys() | saved['loss_scaler'].keys()
        _need_alike(saved['loss_scaler'], own, keys, 'the loss scaler', 'it differs')
    names = {id(p): name for name, p in runner.model.named_parameters()}
    for group, own in zip(saved['param_groups'], optimizer.param_groups):
        for index, parameter in zip(group['params'], own['params']):
            if state := states.get(index):
                name = names.get(id(parameter), f'parameter {index}')
                like = _state_like(optimizer, {**own, **group}, parameter, state)
                place = f'{name} in the optimizer'
                _need_alike(state, like, state.keys() | like.keys(), place, another)
                step = state.get('step', 0)
                need(_is_step(step), f'step of {place}', 'a count', step)
    return changes


def _is_step(value: Any) -> bool:
    try:
        return 0 <= float(value) < float('inf')
    except (TypeError, ValueError, RuntimeError):  # not one number
        return False


def _state_like(
    optimizer: torch.optim.Optimizer, group: dict, parameter: Tensor, state: dict
) -> dict[str, Any]:
    """Return the state that an optimizer's first step gives a parameter."""
    probe = torch.nn.Parameter(torch.zeros_like(parameter))
    probe.grad = torch.zeros_like(parameter)
    try:
        trial = copy.copy(optimizer)
        trial.state = defaultdict(dict)
        trial.param_groups = [{**group, 'params': [probe]}]
        trial.step()
        return trial.state[probe]
    except Exception:  # an optimizer with attributes that torch doesn't copy
        return {
            key: parameter if getattr(value, 'ndim', 0) else value
            for key, value in state.items()
        }


def _check_schedulers(own: list, saved: Any) -> dict[str, str]:
    """Compare the states of schedulers with the config's; return changed settings."""
    check_structure(saved, [{}], 'param_schedulers')
    if len(saved) != len(own):
        raise Malformed(
            f'it has {len(saved)} parameter schedulers, and the config has {len(own)}'
        )
    changes: dict[str, str] = {}
    for scheduler, state in zip(own, saved):
        title, like = type(scheduler).__name__, scheduler.state_dict()
        another = f'its schedule is not the {title} of the config'
        _need_alike(state, like, state.keys() | like.keys(), title, another)
        if state.get('param_name') != like.get('param_name'):
            raise Malformed(another)
        changes |= _changed_settings(state, like, f'{title}: ')
    return changes


def _need_alike(
    saved: dict, own: dict, keys: Iterable, place: str, reason: str
) -> None:
    """Check that two dicts have these keys, with values of the same kinds."""
    for key in sorted(keys, key=str):
        if key not in saved or key not in own:
            where = 'checkpoint' if key in saved else 'run'
            raise Malformed(f'{reason} (only the {where} has {key} of {place})')
        kind = kind_of(own[key])
        need(kind_of(saved[key]) == kind, f'{key} of {place}', kind, saved[key])


def _changed_settings(saved: dict, own: dict, title: str = '') -> dict[str, str]:
    """Return a description of each setting that differs, by its name."""
    changes = {}
    for key in own:
        if key not in _PROGRESS and not key.startswith('initial_'):
            base = f'initial_{key}'  # a schedule changes the other
            before, now = (
                _shown(state.get(base, state[key])) for state in (saved, own)
            )
            if before != now:
                changes[title + key] = f'{title}{key}={before} (config: {now})'
    return changes


def _shown(value: Any) -> Any:
    """Return a setting as a config has it."""
    if isinstance(value, Mapping):  # milestones, as MMEngine counts them
        return sorted(value)
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, list | tuple) else value
