"""Where the time of a detector's training step or prediction goes."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from mmdet.models import BaseDetector

from .measuring import synchronize

# In the order of a step. What they call of each other counts once.
STAGES = (
    'backbone',
    'neck',
    'RPN',
    'RoI heads',
    'mask targets',
    'mask pasting',
    'backward',
    'optimizer',
    'rest',
)


def measure_stages(
    model: BaseDetector,
    optimizer: torch.optim.Optimizer,
    run: Callable[[], None],
    device: str,
) -> dict[str, float]:
    """Seconds in each of :data:`STAGES` while ``run()`` runs a second time.

    Args:
        model (BaseDetector): A two-stage one with a neck.
        optimizer (torch.optim.Optimizer): Whose step is timed.
        run (Callable): A step or a prediction.
        device (str): 'cpu' or 'cuda', which is waited for at each border.
    """
    # Within what is compiled there is no place for a clock.
    compiled = getattr(model.backbone, '_compiled_call_impl', None) is not None
    watched = [
        (model.backbone, '_compiled_call_impl' if compiled else 'forward', 'backbone'),
        (model.neck, 'forward', 'neck'),
        (model.rpn_head, 'loss_and_predict', 'RPN'),
        (model.rpn_head, 'predict', 'RPN'),
        (model.roi_head, 'loss', 'RoI heads'),
        (model.roi_head, 'predict', 'RoI heads'),
        (model.roi_head.mask_head, 'get_targets', 'mask targets'),
        (model.roi_head.mask_head, 'predict_by_feat', 'mask pasting'),
        (optimizer, 'step', 'optimizer'),
        (torch.Tensor, 'backward', 'backward'),
    ]
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]  # what stages within the current one took

    def timed(function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            synchronize(device)
            start = time.perf_counter()
            inner.append(0.0)
            out = function(*args, **kwargs)
            synchronize(device)
            took = time.perf_counter() - start
            seconds[stage] += took - inner.pop()
            inner[-1] += took
            return out

        return wrapper

    run()
    kept = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in watched]
    try:
        for owner, name, stage in watched:
            setattr(owner, name, timed(getattr(owner, name), stage))
        timed(run, 'rest')()
    finally:
        for owner, name, before in kept:
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
    return {stage: seconds[stage] for stage in STAGES if seconds[stage]}
