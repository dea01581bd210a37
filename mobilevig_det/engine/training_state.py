"""What a checkpoint needs, beside MMEngine's, to go on as if nothing had been."""

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from .random_states import get_random_states, set_random_states


def get_rank_state(runner: Runner, random_states: dict | None = None) -> dict:
    """What differs from process to process.

    Args:
        runner (Runner): In training.
        random_states (dict, optional): Defaults to those of now.

    Returns:
        dict: ``random`` (states of the generators), ``gradients`` (accumulated
        ones, by parameter; empty where the last step used them up) and
        ``buffers`` (of many processes: BatchNorm's statistics may differ).
    """
    model = bare_model(runner)
    gradients = {}
    if is_accumulating(runner):
        gradients = {
            name: parameter.grad.detach().cpu().clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    buffers = {}
    if get_world_size() > 1:
        buffers = {
            name: buffer.detach().cpu().clone()
            for name, buffer in model.named_buffers()
        }
    return dict(
        random=random_states or get_random_states(),
        gradients=gradients,
        buffers=buffers,
    )


def restore(runner: Runner, saved: dict) -> None:
    """Bring this process to where its checkpoint was written.

    Args:
        runner (Runner): Resumed, about to train.
        saved (dict): ``processes``, how many there were, and ``of_each``, what
            :func:`get_rank_state` gave on each (or on the first alone).
    """
    states, rank = saved['of_each'], get_rank()
    if saved['processes'] != get_world_size():
        runner.logger.warning(
            f'The checkpoint was written by {saved["processes"]} process(es), and '
            f'{get_world_size()} go on: the batch is another, so the end will not '
            'be the same to the bit, and the learning rate stays as it is. '
            'Accumulated gradients are left out, and the position in the epoch is '
            'converted.'
        )
        if rank < len(states):
            set_random_states(states[rank]['random'])
        return
    if rank < len(states):
        _set_rank_state(runner, states[rank])
    if len(states) < saved['processes']:
        runner.logger.warning(
            "The checkpoint holds the first process's random states alone (it was "
            'written when others may have been dead): the end will not be the same '
            'to the bit.'
        )


def _set_rank_state(runner: Runner, state: dict) -> None:
    model = bare_model(runner)
    parameters = dict(model.named_parameters())
    for name, gradient in state['gradients'].items():
        if name in parameters:
            parameters[name].grad = gradient.to(parameters[name])
    if state['gradients']:
        runner.logger.info(
            'The accumulated gradients are restored: the warning above that they '
            'are lost does not apply.'
        )
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, value in state['buffers'].items():
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)
    set_random_states(state['random'])


def is_accumulating(runner: Runner) -> bool:
    """Whether gradients of the iterations so far wait for their step."""
    wrapper = runner.optim_wrapper
    wrappers = getattr(wrapper, 'optim_wrappers', {'': wrapper}).values()
    return any(
        getattr(each, '_accumulative_counts', 1) > 1 and not each.should_update()
        for each in wrappers
    )


def bare_model(runner: Runner) -> torch.nn.Module:
    """The model, without what distributes it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
