"""Sigmoid and softmax focal loss.

Source: Focal Loss for Dense Object Detection (ICCV 2017, arXiv 1708.02002).

Both are written with the logarithm of the probability, which stays exact
where the probability is rounded to 0 or 1. mmcv's kernels take the logarithm
of the rounded probability, at least that of the smallest float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .bilinear import wants_plain, wide

REDUCTIONS = ('none', 'mean', 'sum')


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    """Focal loss of independent classes.

    ``-alpha * (1 - p) ** gamma * log(p)`` for the target's class and
    ``-(1 - alpha) * p ** gamma * log(1 - p)`` for the others, where p is the
    sigmoid of the logit.

    Args:
        logits (Tensor): Shape (N, C).
        target (Tensor): Class of each row, int64 of shape (N,); C, or any
            negative number, is the background, which is none of the classes.
        gamma (float): How little easy examples count.
        alpha (float): Share of the target's class.
        weight (Tensor, optional): Of each target class, shape (C,); that of
            the background is 1.
        reduction (str): 'none', 'mean' (the sum, divided by N) or 'sum'.

    Returns:
        Tensor: Shape (N, C) for 'none', else a scalar.

    Raises:
        UserError: If an argument's shape or, on CPUs, a class doesn't fit.
    """
    _check(logits, target, weight, reduction, background=True)
    loss = _sigmoid_loss(logits, target, gamma, alpha, weight)
    return _reduce(loss, reduction).to(logits.dtype)


def softmax_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    """Focal loss of classes that exclude each other.

    ``-alpha * (1 - p) ** gamma * log(p)``, where p is the softmax of the
    logits at the target's class.

    Args:
        logits (Tensor): Shape (N, C).
        target (Tensor): Class of each row, int64 of shape (N,); rows with a
            negative one are ignored: their loss is 0.
        gamma (float): How little easy examples count.
        alpha (float): Factor of the loss.
        weight (Tensor, optional): Of each target class, shape (C,).
        reduction (str): 'none', 'mean' (the sum, divided by N) or 'sum'.

    Returns:
        Tensor: Shape (N,) for 'none', else a scalar.

    Raises:
        UserError: If an argument's shape or, on CPUs, a class doesn't fit.
    """
    _check(logits, target, weight, reduction, background=False)
    log_p = _of_target(F.log_softmax(logits.to(wide(logits.dtype)), 1), target)
    loss = _softmax_loss(log_p, target, gamma, alpha, weight)
    return _reduce(loss, reduction).to(logits.dtype)


def _sigmoid_loss(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    x = logits.to(wide(logits.dtype))
    positive = target[:, None] == torch.arange(x.shape[1], device=x.device)
    share = torch.where(positive, x.new_full((), alpha), x.new_full((), 1 - alpha))
    # The logit of what is the case, with p its probability.
    x = torch.where(positive, x, -x)
    # (1 - p) ** gamma, of finite gradient also where p is rounded to 1.
    hard = torch.exp(gamma * F.logsigmoid(-x))
    loss = -share * hard * F.logsigmoid(x)
    return loss * _class_weight(target, weight, x.dtype)[:, None]


def _softmax_loss(
    log_p: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    # 1 - p, but never 0, of which a power has no finite gradient.
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    loss = -alpha * rest**gamma * log_p * _class_weight(target, weight, log_p.dtype)
    return torch.where(target < 0, 0.0, loss)


def _of_target(rows: Tensor, target: Tensor) -> Tensor:
    """The column of each row's class; 0 for a class that there isn't."""
    column = _column(target, rows.shape[1])
    return F.pad(rows, (0, 1)).gather(1, column[:, None])[:, 0]


def _class_weight(target: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Weight of each row's class: 1 of the background, or without weights."""
    if weight is None or not weight.numel():
        return torch.ones_like(target, dtype=dtype)
    return F.pad(weight.to(dtype), (0, 1), value=1)[_column(target, weight.shape[0])]


def _column(target: Tensor, classes: int) -> Tensor:
    """``target`` itself, or ``classes`` where it is none of them."""
    return torch.where((target >= 0) & (target < classes), target, classes)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == 'none':
        return loss
    # Of no rows the mean is 0, too.
    return loss.sum() / (max(loss.shape[0], 1) if reduction == 'mean' else 1)


def _check(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str = 'none',
    *,
    background: bool,
) -> None:
    """Raise a UserError that names the argument that doesn't fit."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise UserError(
            'logits must be of shape (N, C) and floating, not '
            f'{tuple(logits.shape)} of {logits.dtype}'
        )
    rows, classes = logits.shape
    if target.shape != (rows,) or target.dtype != torch.long:
        raise UserError(
            f'target must be of shape ({rows},) and int64, not '
            f'{tuple(target.shape)} of {target.dtype}'
        )
    if weight is not None and weight.numel() and weight.shape != (classes,):
        raise UserError(
            f'weight must be of shape ({classes},), not {tuple(weight.shape)}'
        )
    if reduction not in REDUCTIONS:
        raise UserError(f'reduction must be one of {REDUCTIONS}, not {reduction!r}')
    # Elsewhere than on a CPU a look at the numbers would wait for the device.
    if target.device.type == 'cpu' and not wants_plain():
        largest = classes if background else classes - 1
        if (target > largest).any():
            raise UserError(
                f'target must be at most {largest} for {classes} classes, but has '
                f'{int(target.max())}'
            )


# What follows has the names, arguments and buffers of mmcv's extension.


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the loss to ``output``; an empty ``weight`` is none."""
    _check(input, target, weight, background=True)
    with torch.no_grad():
        output.copy_(_sigmoid_loss(input, target, gamma, alpha, weight))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradient of the loss's sum to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().to(wide(input.dtype)).requires_grad_()
        loss = _sigmoid_loss(logits, target, gamma, alpha, weight)
        grad_input.copy_(torch.autograd.grad(loss.sum(), logits)[0])


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the loss to ``output``; ``input`` is the softmax already."""
    _check(input, target, weight, background=False)
    with torch.no_grad():
        log_p = _log_of_target(input, target)
        output.copy_(_softmax_loss(log_p, target, gamma, alpha, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradient of the loss's sum by the logits to ``grad_input``
    and that by the logarithm of the target's probability to ``buff``."""
    with torch.enable_grad():
        log_p = _log_of_target(input, target).requires_grad_()
        loss = _softmax_loss(log_p, target, gamma, alpha, weight)
        of_log_p = torch.autograd.grad(loss.sum(), log_p)[0]
    classes = torch.arange(input.shape[1], device=input.device)
    hit = (target[:, None] == classes).to(of_log_p)
    buff.copy_(of_log_p)
    grad_input.copy_(of_log_p[:, None] * (hit - input.to(of_log_p)))


def _log_of_target(softmax: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the target's probability, at least of the smallest number."""
    p = _of_target(softmax.detach().to(wide(softmax.dtype)), target)
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
