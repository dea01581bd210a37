"""What mmcv.ops calls in ``mmcv._ext``, on PyTorch alone.

Stands in for the extension where mmcv has none (mmcv_stand_in.py). Where it
has one, nothing changes until :func:`use_on_cpus` is called.
"""

import functools
import importlib
from collections.abc import Callable

from torch import Tensor

from ..errors import UserError
from . import (
    deform_conv_mmcv,
    focal_loss,
    masked_conv,
    ms_deform_attn,
    on_cuda,
    soft_nms,
)
from . import nms as _nms
from . import roi_align as _roi_align


@functools.wraps(_nms.nms)
def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    if offset == 0 and on_cuda.has_torchvision(bboxes):
        return on_cuda.nms(bboxes, scores, iou_threshold)
    return _nms.nms(bboxes, scores, iou_threshold, offset)


@functools.wraps(_roi_align.roi_align_forward)
def roi_align_forward(input, rois, output, argmax_y, argmax_x, **kwargs):
    if kwargs['pool_mode'] == 1 and on_cuda.has_torchvision(input):
        on_cuda.roi_align_forward(input, rois, output, **kwargs)
    else:
        _roi_align.roi_align_forward(input, rois, output, argmax_y, argmax_x, **kwargs)


@functools.wraps(_roi_align.roi_align_backward)
def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **kwargs):
    if kwargs['pool_mode'] == 1 and on_cuda.has_torchvision(grad_output):
        on_cuda.roi_align_backward(grad_output, rois, grad_input, **kwargs)
    else:
        _roi_align.roi_align_backward(
            grad_output, rois, argmax_y, argmax_x, grad_input, **kwargs
        )


OPERATORS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        soft_nms.softnms,
        focal_loss.sigmoid_focal_loss_forward,
        focal_loss.sigmoid_focal_loss_backward,
        focal_loss.softmax_focal_loss_forward,
        focal_loss.softmax_focal_loss_backward,
        deform_conv_mmcv.deform_conv_forward,
        deform_conv_mmcv.deform_conv_backward_input,
        deform_conv_mmcv.deform_conv_backward_parameters,
        deform_conv_mmcv.modulated_deform_conv_forward,
        deform_conv_mmcv.modulated_deform_conv_backward,
        masked_conv.masked_im2col_forward,
        masked_conv.masked_col2im_forward,
        ms_deform_attn.ms_deform_attn_forward,
        ms_deform_attn.ms_deform_attn_backward,
    )
}


def __getattr__(name: str) -> Callable:
    """An operator by the name that mmcv has for it."""
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name in OPERATORS:
        return OPERATORS[name]
    if name in ('get_compiler_version', 'get_compiling_cuda_version'):
        return lambda: 'n/a'  # of mmcv's collect_env

    def missing(*args, **kwargs):
        raise UserError(
            f'mmcv.ops needs the operator {name!r}, which is not among those that '
            f'mobilevig_det brings ({", ".join(OPERATORS)}), and this mmcv has none of '
            'its own. For all of them mmcv has to be compiled: docs/install.md, '
            '"With a compiled mmcv".'
        )

    return missing


def _extension():
    return importlib.import_module('mmcv._ext')


def is_compiled() -> bool:
    """Whether mmcv has operators of its own."""
    return not (getattr(_extension(), '__file__', None) or '.py').endswith('.py')


def use_on_cpus() -> None:
    """With a compiled mmcv: have ours compute with tensors on CPUs.

    For programs, not for libraries: the whole process changes. Ours know half
    types and are many times as fast there (docs/benchmark.md). Calling it again
    does nothing, nor does it without a compiled mmcv, where ours are in use.
    """
    extension = _extension()
    if not is_compiled():
        return
    for name, ours in OPERATORS.items():
        compiled = getattr(extension, name, None)
        if compiled is not None and not hasattr(compiled, 'compiled'):
            setattr(extension, name, _by_device(ours, compiled))


def _by_device(ours: Callable, compiled: Callable) -> Callable:
    @functools.wraps(ours)
    def operator(*args, **kwargs):
        tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        on_cpu = all(tensor.device.type == 'cpu' for tensor in tensors)
        return (ours if on_cpu else compiled)(*args, **kwargs)

    operator.compiled = compiled  # type: ignore[attr-defined]
    return operator


def in_use() -> str:
    """Whose operators mmcv.ops calls, in words."""
    if not is_compiled():
        return "mobilevig_det's (mmcv has none)"
    if hasattr(_extension().nms, 'compiled'):
        return "compiled mmcv's, on CPUs mobilevig_det's"
    return "compiled mmcv's"
