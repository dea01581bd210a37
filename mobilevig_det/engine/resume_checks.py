"""Check a checkpoint before a training resumes from it.

Some of torch's optimizer kernels read and write as far as a parameter's shape says,
whatever the size of the loaded moments, and MMEngine runs and indexes entries of a
checkpoint as it finds them. So each entry is checked first: by itself
(:func:`check_training_checkpoint`), then against the model, the optimizer and the
schedulers of the run (:func:`prepare_resume`).
"""

import copy
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UserError
from .training_state import optim_wrappers, unwrapped_model

# Options of torch's optimizers that choose the implementation, not the result.
_IMPLEMENTATION = {'foreach', 'fused', 'capturable', 'differentiable'}
# Attributes of MMEngine's schedulers that change in training.
_PROGRESS = {
    *('last_step', '_global_step', '_last_value', 'base_values', 'verbose'),
    *('best', 'num_bad_epochs', 'cooldown_counter'),
}
_ADVICE = (
    'Use the config that the checkpoint was trained with; or begin a new run, in '
    'another work dir, with these weights: load_from=FILE, without --resume.'
)
_APPLY = '--cfg-options default_hooks.checkpoint.resume_hyperparameters=False'


def check_training_checkpoint(content: Any, name: str, complete: bool = True) -> None:
    """Check that each entry that a training resumes from has the right structure.

    Args:
        content (Any): What the file holds.
        name (str): Its name, for the message.
        complete (bool): Whether ``meta`` and ``message_hub`` must have all entries.
            Defaults to True.

    Raises:
        UserError: For the first entry that is missing or malformed.
    """
    try:
        _check_entries(content, complete)
    except _Malformed as problem:
        raise UserError(f'{name} is not a training checkpoint: {problem}.') from problem


class _Malformed(Exception):
    """An entry is not as a training saves it."""


def _need(good: bool, entry: str, kind: str, value: Any) -> None:
    if not good:
        raise _Malformed(f'{entry} must be {kind}, but is {_describe(value)}')


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f'a tensor {tuple(value.shape)} of {value.dtype}'
    if value is None or isinstance(value, Number):
        return repr(value)[:40]
    return f'of type {type(value).__name__}'


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_nested)
    )


def _need_dict(parent: Mapping, key: str, place: str = '') -> dict:
    value = parent.get(key)
    good = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    _need(good, place + key, 'a dict with names as keys', value)
    return value  # type: ignore[return-value]


def _need_tensors(parent: Mapping, key: str, place: str = '') -> None:
    for name, value in _need_dict(parent, key, place).items():
        _need(_is_dense(value), f'{place}{key}[{name!r}]', 'a dense tensor', value)


def _check_entries(content: Any, complete: bool) -> None:
    _need(isinstance(content, dict), 'the content', 'a dict', content)
    meta, hub = _need_dict(content, 'meta'), _need_dict(content, 'message_hub')
    if not complete:
        meta = dict(epoch=0, iter=0) | meta
        hub = dict(log_scalars={}, runtime_info={}, resumed_keys={}) | hub
    for key in ('epoch', 'iter'):
        _need(_is_count(meta.get(key)), f'meta.{key}', 'a count', meta.get(key))
    seed = meta.get('seed')
    _need(seed is None or _is_count(seed), 'meta.seed', 'a count', seed)
    _need_tensors(content, 'state_dict')
    _check_hub(hub)
    if 'ema_state_dict' in content:
        _need_tensors(content, 'ema_state_dict')
    for key in ('optimizer', 'param_schedulers'):
        value = content.get(key, {})
        _need(isinstance(value, dict | list), key, 'a dict or a list', value)
    if content.get('training_state') is not None:
        state = _need_dict(content, 'training_state')
        of_each = state.get('of_each')
        _need(_is_count(state.get('processes')), 'processes', 'a count', state)
        _need(isinstance(of_each, list), 'training_state.of_each', 'a list', of_each)
        for rank, each in enumerate(of_each):  # type: ignore[arg-type]
            place = f'training_state.of_each[{rank}]'
            _need(isinstance(each, dict), place, 'a dict', each)
            _need_tensors(each, 'gradients', f'{place}.')
            _need_tensors(each, 'buffers', f'{place}.')
            _check_random_states(_need_dict(each, 'random', f'{place}.'), place)


def _check_hub(hub: dict) -> None:
    for key, history in _need_dict(hub, 'log_scalars', 'message_hub.').items():
        if isinstance(history, HistoryBuffer):  # MMEngine skips others
            data = [getattr(history, f'_{name}_history', None) for name in _HISTORIES]
            good = all(
                isinstance(d, np.ndarray) and d.ndim == 1 and d.dtype.kind in 'fiu'
                for d in data
            )
            good = good and len(data[0]) == len(data[1])  # type: ignore[arg-type]
            _need(good, f'message_hub.log_scalars[{key!r}]', 'numbers', history)
    resumed = _need_dict(hub, 'resumed_keys', 'message_hub.')
    good = all(isinstance(value, bool) for value in resumed.values())
    _need(good, 'message_hub.resumed_keys', 'a dict of bools', resumed)
    info = _need_dict(hub, 'runtime_info', 'message_hub.')
    for key, value in info.items():
        for start, (is_good, kind) in _INFO.items():
            if key == start or (start[-1] == '_' and key.startswith(start)):
                entry = f'message_hub.runtime_info[{key!r}]'
                _need(is_good(value), entry, kind, value)


def _are_kept_checkpoints(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, list | tuple)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and entry[0] == os.path.basename(entry[0])
        for entry in value
    )


def _is_epoch_start(value: Any) -> bool:
    counts = isinstance(value, list | tuple) and all(map(_is_count, value))
    return counts and len(value) == 3 and value[2] > 0


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


_HISTORIES = ('log', 'count')
# What this package and MMEngine's CheckpointHook read from the message hub.
_INFO = {
    'epoch_start': (_is_epoch_start, 'three counts'),
    'sampler_seed': (_is_count, 'a count'),
    'validated_iter': (_is_count, 'a count'),
    'kept_checkpoints': (_are_kept_checkpoints, 'pairs of a file name and a bool'),
    'keep_ckpt_ids': (
        lambda value: isinstance(value, list) and all(map(_is_count, value)),
        'a list of counts',
    ),
    'run': (_is_text, 'a string'),
    'best_ckpt': (_is_text, 'a string'),
    'best_ckpt_': (_is_text, 'a string'),
    'best_score': (lambda value: isinstance(value, Number), 'a number'),
    'best_score_': (lambda value: isinstance(value, Number), 'a number'),
}


def _check_random_states(states: dict, place: str) -> None:
    """Try the states of Python, NumPy and torch on generators that nobody uses."""
    try:
        version, internal, gauss = states['python']
        random.Random().setstate((version, tuple(internal), gauss))
        name, keys, position, *rest = states['numpy']
        # NumPy reads at this position without a check.
        if not (_is_count(position) and position <= len(keys) == 624):
            raise ValueError('the position of numpy is out of range')
        np.random.RandomState().set_state(
            (name, np.array(keys, dtype=np.uint32), position, *rest)
        )
        torch.Generator().set_state(states['torch'].cpu())
        cuda = states['cuda']
        if not isinstance(cuda, list) or not all(map(_is_dense, cuda)):
            raise ValueError('those of CUDA are not a list of tensors')
    except Exception as error:  # whatever the generators raise
        reason = str(error).partition('\n')[0][:100]
        raise _Malformed(f'{place}.random cannot be restored ({reason})') from error


def prepare_resume(runner: Runner, checkpoint: dict, keep: bool) -> bool:
    """Check a checkpoint against a run, and report hyperparameters that differ.

    Args:
        runner (Runner): Its optimizer and schedulers are built, and nothing is loaded.
        checkpoint (dict): Changed, so that MMEngine restores what is to be restored.
        keep (bool): Whether the checkpoint's hyperparameters of the optimizer and its
            schedulers are kept, or replaced by the config's.

    Returns:
        bool: Whether the checkpoint's hyperparameters and schedulers are restored.
        Otherwise the config's are to be advanced, see :func:`advance_schedulers`.

    Raises:
        UserError: If an entry is malformed or does not fit the run.
    """
    name = str(runner._load_from)
    check_training_checkpoint(checkpoint, name)
    checkpoint['meta'].pop('config', None)  # MMEngine would run it as a Python file
    try:
        _check_weights(runner, checkpoint)
        for key in ('optimizer', 'param_schedulers'):
            if key not in checkpoint and (
                key == 'optimizer' or runner.param_schedulers
            ):
                runner.logger.warning(
                    f'{name} has no entry {key!r}: the learning rate, its schedule and '
                    "the optimizer's settings are those of the config."
                )
                keep = False
        changes: list[str] = []
        wrappers = optim_wrappers(runner)
        if 'optimizer' in checkpoint:
            saved = checkpoint['optimizer']
            saved = saved if list(wrappers) != [''] else {'': saved}
            _need(set(saved) == set(wrappers), 'optimizer', 'as in the config', saved)
            for key, wrapper in wrappers.items():
                changes += _check_wrapper(runner, wrapper, saved[key], keep)
        if keep and 'param_schedulers' in checkpoint and runner.param_schedulers:
            changes += _check_schedulers(runner, checkpoint['param_schedulers'])
    except _Malformed as problem:
        raise UserError(f'{name} does not fit this run: {problem}. {_ADVICE}') from None
    if not keep:
        checkpoint.pop('param_schedulers', None)
    elif changes:
        runner.logger.warning(
            'The learning rate, its schedule or the optimizer differ between the '
            f"checkpoint and the config, and the checkpoint's are kept: "
            f"{'; '.join(changes)}. To apply the config's, resume with {_APPLY}."
        )
    return keep


def _check_weights(runner: Runner, checkpoint: dict) -> None:
    own = unwrapped_model(runner).state_dict()
    averaged = checkpoint.get('ema_state_dict', {})
    for weights in (checkpoint['state_dict'], averaged):
        for key, value in weights.items():
            like = own.get(key.removeprefix('module.'))
            if like is not None and value.shape != like.shape:
                raise _Malformed(
                    f'{key} is {_describe(value)}, and {tuple(like.shape)} in the model'
                )
    for key in averaged:
        if key.startswith('module.') and key[7:] not in checkpoint['state_dict']:
            raise _Malformed(f'ema_state_dict has {key}, and state_dict has not')
    states = (checkpoint.get('training_state') or {}).get('of_each', [])
    parameters = dict(unwrapped_model(runner).named_parameters())
    for state in states:
        for key, value in state['gradients'].items():
            if key in parameters and value.shape != parameters[key].shape:
                raise _Malformed(f'the accumulated gradient of {key} has another shape')


def _check_wrapper(runner: Runner, wrapper: Any, saved: Any, keep: bool) -> list[str]:
    """Check the state of an optimizer wrapper.

    Returns:
        list[str]: Hyperparameters that differ.
    """
    _need(isinstance(saved, dict), 'optimizer', 'a dict', saved)
    optimizer = wrapper.optimizer
    groups, states = saved.get('param_groups'), saved.get('state')
    good = isinstance(groups, list) and all(
        isinstance(group, dict)
        and isinstance(group.get('params'), list)
        and all(map(_is_count, group['params']))
        for group in groups
    )
    _need(good, 'optimizer.param_groups', 'a list of dicts with params', groups)
    good = isinstance(states, dict) and all(
        isinstance(state, dict) for state in states.values()
    )
    _need(good, 'optimizer.state', 'a dict of dicts', states)
    own_groups = optimizer.param_groups
    found, wanted = (
        [len(group['params']) for group in gs] for gs in (groups, own_groups)
    )
    if found != wanted:
        raise _Malformed(
            f'its optimizer has {sum(found)} parameters in {len(found)} groups, and '
            f"this model's {sum(wanted)} in {len(wanted)}"
        )
    every = [index for group in groups for index in group['params']]
    if len({*every}) != len(every) or not {*states} <= {*every}:
        raise _Malformed("the optimizer's indices of parameters are not unique")
    changes: dict[str, str] = {}
    for group, own in zip(groups, own_groups):
        _check_group(optimizer, group, own, keep, changes)
    base, own_base = saved.get('base_param_settings'), wrapper.base_param_settings
    if not keep or base is None or own_base is None:
        saved.pop('base_param_settings', None)
    else:
        _need(isinstance(base, dict), 'base_param_settings', 'a dict', base)
        base['params'] = own_base['params']
        _check_group(optimizer, base, own_base, keep, {})
    if 'loss_scaler' in saved and hasattr(wrapper, 'loss_scaler'):
        scaler, own_scaler = saved['loss_scaler'], wrapper.loss_scaler.state_dict()
        good = isinstance(scaler, dict) and {*scaler} == {*own_scaler}
        good = good and all(_kind(scaler[k]) == _kind(v) for k, v in own_scaler.items())
        _need(good, 'loss_scaler', 'as GradScaler saves it', scaler)
    names = {id(p): name for name, p in runner.model.named_parameters()}
    for group, own in zip(groups, own_groups):
        for index, parameter in zip(group['params'], own['params']):
            if states.get(index):
                name = names.get(id(parameter), f'parameter {index}')
                fresh = _fresh_state(optimizer, {**own, **group}, parameter)
                _check_state(optimizer, states[index], fresh, parameter, name)
    return list(changes.values())


def _check_group(
    optimizer: Optimizer, saved: dict, own: dict, keep: bool, changes: dict[str, str]
) -> None:
    """Check the hyperparameters of a group; complete or replace them."""
    for key, value in own.items():
        if key == 'params':
            continue
        # What a newer torch, or a schedule, adds is no sign of another optimizer.
        added = value is None or isinstance(value, bool) or key.startswith('initial_')
        if key in _IMPLEMENTATION or not keep or (added and key not in saved):
            saved[key] = value
        if key not in saved:
            raise _Malformed(f'{_is_of_another(optimizer)}: it has no {key}')
        entry = f'{key} of the optimizer'
        _need(_kind(saved[key]) == _kind(value), entry, _kind(value), saved[key])
    for key in own.keys() - {'params'}:
        base = f'initial_{key}'  # a schedule changes the other
        before, now = (_shown(group.get(base, group[key])) for group in (saved, own))
        if before != now and not key.startswith('initial_'):
            changes.setdefault(key, f'{key}={before} (config: {now})')


def _is_of_another(optimizer: Optimizer) -> str:
    return f'its optimizer is not the {type(optimizer).__name__} of the config'


def _shown(value: Any) -> Any:
    """Return a setting as a config has it."""
    if isinstance(value, Mapping):  # milestones, as MMEngine counts them
        return sorted(value)
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, list | tuple) else value


def _kind(value: Any) -> str:
    """Name the kind of a setting: settings of one kind can replace each other."""
    if isinstance(value, bool):
        return 'True or False'
    if isinstance(value, Number):
        return 'a number'
    if isinstance(value, list | tuple):
        return f'{len(value)} values, {" and ".join(sorted({*map(_kind, value)}))}'
    if isinstance(value, Mapping):
        kinds = {*map(_kind, value.keys()), *map(_kind, value.values())}
        return f'a dict of {" and ".join(sorted(kinds))}'
    if isinstance(value, Tensor) and not _is_dense(value):
        return 'a tensor without values'
    return _describe(value)


def _fresh_state(
    optimizer: Optimizer, group: dict, parameter: Tensor
) -> dict[str, Any] | None:
    """Return the state that an optimizer's first step gives a parameter.

    Returns:
        dict[str, Any] | None: By name; None if the optimizer can't be tried.
    """
    probe = torch.nn.Parameter(torch.zeros_like(parameter))
    probe.grad = torch.zeros_like(parameter)
    try:
        trial = copy.copy(optimizer)
        trial.state = defaultdict(dict)
        trial.param_groups = [{**group, 'params': [probe]}]
        trial.step()
    except Exception:  # an optimizer with attributes that torch doesn't copy
        return None
    return trial.state[probe]


def _check_state(
    optimizer: Optimizer,
    state: dict,
    fresh: dict[str, Any] | None,
    parameter: Tensor,
    name: str,
) -> None:
    """Check the moments and counts of a parameter."""
    if fresh is None:
        fresh = {
            key: parameter if getattr(value, 'ndim', 0) else value
            for key, value in state.items()
        }
    if set(state) != set(fresh):
        raise _Malformed(
            f'{_is_of_another(optimizer)}: the state of {name} has '
            f'{", ".join(sorted(map(str, state)))} instead of '
            f'{", ".join(sorted(map(str, fresh))) or "nothing"}'
        )
    for key, value in state.items():
        like, entry = fresh[key], f'{key} of {name} in the optimizer'
        _need(_kind(value) == _kind(like), entry, _kind(like), value)
        if key == 'step':
            _need(0 <= float(value) < float('inf'), entry, 'a count', value)


def _check_schedulers(runner: Runner, saved: Any) -> list[str]:
    """Check the states of the parameter schedulers.

    Returns:
        list[str]: Settings that differ.
    """
    changes = []
    own = runner.param_schedulers
    by_name = own if isinstance(own, dict) else {'': own}
    saved = saved if isinstance(own, dict) else {'': saved}
    good = isinstance(saved, dict) and {*saved} == {*by_name}
    _need(good, 'param_schedulers', 'as in the config', saved)
    for name, schedulers in by_name.items():
        states = saved[name]
        _need(isinstance(states, list), 'param_schedulers', 'a list', states)
        if len(states) != len(schedulers):
            raise _Malformed(
                f'it has {len(states)} parameter schedulers, and the config has '
                f"{len(schedulers)}; to apply the config's, resume with {_APPLY}"
            )
        for scheduler, state in zip(schedulers, states):
            changes += _check_scheduler(scheduler, state)
    return changes


def _check_scheduler(scheduler: Any, state: Any) -> list[str]:
    title, own = type(scheduler).__name__, scheduler.state_dict()
    _need(isinstance(state, dict), f'the state of {title}', 'a dict', state)
    changes = []
    for key in {**own, **state}:
        fits = key in own and key in state and _kind(state[key]) == _kind(own[key])
        if not fits or (key == 'param_name' and state[key] != own[key]):
            raise _Malformed(
                f'its schedule is not {title} of the config ({key} differs); to apply '
                f"the config's, resume with {_APPLY}"
            )
        before, now = _shown(state[key]), _shown(own[key])
        if key not in _PROGRESS and before != now:
            changes.append(f'{title}: {key}={before} (config: {now})')
    return changes


def advance_schedulers(runner: Runner) -> None:
    """Step the config's schedulers to where the training is.

    Args:
        runner (Runner): With the position of the checkpoint that it resumed from, and
            the config's hyperparameters.
    """
    own = runner.param_schedulers or []
    lists = own.values() if isinstance(own, dict) else [own]
    schedulers = [
        scheduler
        for each in lists
        for scheduler in each
        if not isinstance(scheduler, ReduceOnPlateauParamScheduler)  # needs metrics
    ]
    length, epochs = len(runner.train_dataloader), 0

    def step(by_epoch: bool) -> None:
        for scheduler in schedulers:
            if scheduler.by_epoch is by_epoch:
                scheduler.step()

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that no step of the optimizer came before
        for iteration in range(1, runner.iter + 1):
            step(by_epoch=False)
            if epochs < runner.epoch and iteration >= (epochs + 1) * length:
                step(by_epoch=True)
                epochs += 1
        for _ in range(epochs, runner.epoch):
            step(by_epoch=True)
