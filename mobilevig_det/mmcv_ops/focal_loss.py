"""Sigmoid and softmax focal loss, under the names and arguments of mmcv's extension.

Source: Focal Loss for Dense Object Detection (ICCV 2017, arXiv 1708.02002).

Both losses use the logarithm of the probability, which stays exact where the
probability is rounded to 0 or 1. mmcv's kernels take the logarithm of the rounded
probability, clamped to the smallest float32. An empty ``weight`` stands for none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import is_traced_or_compiled
from ..errors import UserError
from .bilinear import wide_dtype


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the loss of independent classes to ``output``.

    ``-alpha * (1 - p) ** gamma * log(p)`` for the target's class and
    ``-(1 - alpha) * p ** gamma * log(1 - p)`` for the others, where p is the sigmoid
    of the logit.

    Args:
        input (Tensor): Logits of shape (N, C).
        target (Tensor): Class of each row, int64 of shape (N,); C, or any negative
            number, is the background.
        weight (Tensor): Weight of each target class, of shape (C,); that of the
            background is 1.
        output (Tensor): Is filled; of shape (N, C).
        gamma (float): Focusing parameter.
        alpha (float): Share of the target's class.

    Raises:
        UserError: If, on a CPU, a class doesn't exist.
    """
    _check_classes(target, input.shape[1])
    with torch.no_grad():
        output.copy_(_sigmoid_loss(input, target, gamma, alpha, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of the loss's sum to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().to(wide_dtype(input.dtype)).requires_grad_()
        loss = _sigmoid_loss(logits, target, gamma, alpha, weight)
        grad_input.copy_(torch.autograd.grad(loss.sum(), logits)[0])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the loss of exclusive classes to ``output``.

    ``-alpha * (1 - p) ** gamma * log(p)``, where p is the probability of the target's
    class.

    Args:
        input (Tensor): Softmax of the logits, of shape (N, C).
        target (Tensor): Class of each row, int64 of shape (N,); the loss of rows with
            a negative one is 0.
        weight (Tensor): Weight of each target class, of shape (C,).
        output (Tensor): Is filled; of shape (N,).
        gamma (float): Focusing parameter.
        alpha (float): Factor of the loss.

    Raises:
        UserError: If, on a CPU, a class doesn't exist.
    """
    _check_classes(target, input.shape[1] - 1)
    with torch.no_grad():
        log_p = _log_of_target(input, target)
        output.copy_(_softmax_loss(log_p, target, gamma, alpha, weight))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor,
    gamma: float, alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of the summed loss to ``grad_input``.

    The gradient with respect to the log probability is written to ``buff``.
    """
    with torch.enable_grad():
        log_p = _log_of_target(input, target).requires_grad_()
        loss = _softmax_loss(log_p, target, gamma, alpha, weight)
        of_log_p = torch.autograd.grad(loss.sum(), log_p)[0]
    classes = torch.arange(input.shape[1], device=input.device)
    hit = (target[:, None] == classes).to(of_log_p)
    buff.copy_(of_log_p)
    grad_input.copy_(of_log_p[:, None] * (hit - input.to(of_log_p)))


def _sigmoid_loss(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor
) -> Tensor:
    x = logits.to(wide_dtype(logits.dtype))
    positive = target[:, None] == torch.arange(x.shape[1], device=x.device)
    share = torch.where(positive, x.new_full((), alpha), x.new_full((), 1 - alpha))
    # The logit of the true answer, whose probability is p.
    x = torch.where(positive, x, -x)
    # (1 - p) ** gamma, with a finite gradient also where p is rounded to 1.
    hard = torch.exp(gamma * F.logsigmoid(-x))
    loss = -share * hard * F.logsigmoid(x)
    return loss * _class_weight(target, weight, x.dtype)[:, None]


def _softmax_loss(
    log_p: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor
) -> Tensor:
    # 1 - p, but never 0, of which a power has no finite gradient.
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    loss = -alpha * rest**gamma * log_p * _class_weight(target, weight, log_p.dtype)
    return torch.where(target < 0, 0.0, loss)


def _log_of_target(softmax: Tensor, target: Tensor) -> Tensor:
    """Return the log probability of each row's class, clamped to a finite number."""
    p = softmax.detach().to(wide_dtype(softmax.dtype))
    column = _column(target, p.shape[1])
    p = F.pad(p, (0, 1)).gather(1, column[:, None])[:, 0]
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()


def _class_weight(target: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight of each row's class: 1 for the background and by default."""
    if not weight.numel():
        return torch.ones_like(target, dtype=dtype)
    return F.pad(weight.to(dtype), (0, 1), value=1)[_column(target, weight.shape[0])]


def _column(target: Tensor, classes: int) -> Tensor:
    """Return ``target``, or ``classes`` where it is none of the classes."""
    return torch.where((target >= 0) & (target < classes), target, classes)


def _check_classes(target: Tensor, largest: int) -> None:
    # On a GPU the processor would have to wait for the values.
    if target.device.type == 'cpu' and not is_traced_or_compiled():
        if (target > largest).any():
            raise UserError(
                f'target must be at most {largest}, but has {int(target.max())}.'
            )
