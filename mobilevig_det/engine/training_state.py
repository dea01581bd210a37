"""The state of a training that MMEngine's checkpoints lack.

Random number generators, accumulated gradients, and buffers that differ between ranks.
"""

import heapq
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import Runner


def get_random_states() -> dict:
    """Return the states of this process's random number generators.

    Returns:
        dict: ``python``, ``numpy``, ``torch`` (of the CPU) and ``cuda`` (a list, one
        for each visible GPU; empty if CUDA isn't used), as types that are safe to
        load from a checkpoint.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return dict(
        python=random.getstate(),
        numpy=(str(name), np.asarray(keys).tolist(), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    )


def set_random_states(states: dict) -> None:
    """Restore what :func:`get_random_states` returned."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    # There may be fewer GPUs now.
    count = torch.cuda.device_count() if states['cuda'] else 0
    for device, state in enumerate(states['cuda'][:count]):
        torch.cuda.set_rng_state(state.cpu(), device)


@contextmanager
def preserve_random_states() -> Iterator[None]:
    """Undo, for the random number generators, what is drawn in the block."""
    states = get_random_states()
    try:
        yield
    finally:
        set_random_states(states)


def get_rank_state(runner: Runner, random_states: dict | None = None) -> dict:
    """Return the state that differs between ranks.

    Args:
        runner (Runner): In training.
        random_states (dict, optional): Defaults to the present ones.

    Returns:
        dict: ``random`` (states of the generators), ``gradients`` (accumulated ones
        by parameter name; empty after an optimizer step) and ``buffers`` (by name,
        with several ranks, as BatchNorm's statistics may differ).
    """
    model = unwrapped_model(runner)
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


def restore_training_state(runner: Runner, saved: dict) -> None:
    """Restore this rank's state from a checkpoint.

    Args:
        runner (Runner): Resumed, about to train.
        saved (dict): ``processes``, the number of ranks that there were, and
            ``of_each``, the result of :func:`get_rank_state` of each rank.
    """
    states, rank = saved['of_each'], get_rank()
    if saved['processes'] != get_world_size() or rank >= len(states):
        runner.logger.warning(
            f'The checkpoint was written by {saved["processes"]} process(es), and '
            f'{get_world_size()} resume: the batch size changes, so the result will '
            'not be bit-identical, and the learning rate stays as it is. Accumulated '
            'gradients are dropped, and the position in the epoch is converted.'
        )
        if rank < len(states):
            set_random_states(states[rank]['random'])
        return
    state, model = states[rank], unwrapped_model(runner)
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
    """Return whether accumulated gradients wait for an optimizer step."""
    return any(
        getattr(wrapper, '_accumulative_counts', 1) > 1 and not wrapper.should_update()
        for wrapper in optim_wrappers(runner).values()
    )


def optim_wrappers(runner: Runner) -> dict:
    """Return the optimizer wrappers of a training by name; a single one has none."""
    wrapper = runner.optim_wrapper
    return getattr(wrapper, 'optim_wrappers', {'': wrapper})


def schedulers_by_name(runner: Runner) -> dict[str, list]:
    """Return the schedulers by the name of their optimizer; a single one has none."""
    own = runner.param_schedulers or []
    return own if isinstance(own, dict) else {'': own}


def advance_schedulers(runner: Runner) -> None:
    """Step the config's schedulers to where the training is.

    Args:
        runner (Runner): With the position of the checkpoint that it resumed from, and
            the config's hyperparameters.
    """
    schedulers = [
        scheduler
        for each in schedulers_by_name(runner).values()
        for scheduler in each
        if not isinstance(scheduler, ReduceOnPlateauParamScheduler)  # needs metrics
    ]
    length = len(runner.train_dataloader)
    iterations = ((i, False) for i in range(1, runner.iter + 1))
    epochs = (((i + 1) * length, True) for i in range(runner.epoch))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that no step of the optimizer came before
        for _, by_epoch in heapq.merge(iterations, epochs):
            for scheduler in schedulers:
                if scheduler.by_epoch is by_epoch:
                    scheduler.step()


def unwrapped_model(runner: Runner) -> torch.nn.Module:
    """Return the model without DistributedDataParallel or its like."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
