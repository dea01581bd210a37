"""Stand-in for ``mmcv._ext``: the operators that mmcv.ops calls, in PyTorch.

Where mmcv has no compiled extension, :func:`provide_mmcv_ext` or the file that the
wheel installs (mmcv_stand_in.py) puts these operators in its place, and
:data:`REPLACEMENTS` for methods that fail before they call one. A compiled extension
is used until :func:`use_on_cpus` is called. On CUDA, torchvision's operators
are preferred, because the ones here are written for CPUs.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from . import carafe, deform_conv, focal_loss, ms_deform_attn, roi_pool
from . import nms as _nms
from . import roi_align as _roi_align
from .sync_batch_norm import forward_sync_batch_norm, init_sync_batch_norm

NAME = 'mmcv._ext'
STAND_IN = Path(__file__).with_name('mmcv_stand_in.py')


def provide_mmcv_ext() -> bool:
    """Make ``mmcv.ops`` importable where mmcv has no compiled operators.

    A compiled extension, or the file that the wheel installs in its place, is left
    alone. The effect lasts for this process.

    Returns:
        bool: Whether this call put the stand-in in place.
    """
    if NAME in sys.modules or find_spec(NAME):
        return False
    loader = SourceFileLoader(NAME, str(STAND_IN))
    module = module_from_spec(ModuleSpec(NAME, loader, origin=str(STAND_IN)))
    loader.exec_module(module)
    # As an import statement would have done.
    sys.modules[NAME] = module
    vars(importlib.import_module('mmcv'))['_ext'] = module
    return True


@functools.cache
def torchvision_ops():
    """Return ``torch.ops.torchvision``, or None if it can't be loaded."""
    try:
        import torchvision

        torchvision.ops.nms  # noqa: B018  raises if its extension did not load
    except Exception:  # it fails in many ways
        return None
    return torch.ops.torchvision


def has_torchvision(tensor: Tensor) -> bool:
    """Return whether torchvision is to compute with this tensor."""
    return tensor.is_cuda and torchvision_ops() is not None


@functools.wraps(_nms.nms)
def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Call torchvision's operator on GPUs if there is one, otherwise ours."""
    if offset == 0 and has_torchvision(bboxes):
        return torchvision_ops().nms(bboxes.float(), scores.float(), iou_threshold)
    return _nms.nms(bboxes, scores, iou_threshold, offset)


@functools.wraps(_roi_align.roi_align_forward)
def roi_align_forward(input, rois, output, argmax_y, argmax_x, **kwargs):
    """Call torchvision's operator on GPUs if there is one, otherwise ours."""
    if kwargs['pool_mode'] == 1 and has_torchvision(input):
        rois, settings = rois.to(input.dtype), _torchvision_settings(kwargs)
        output.copy_(torchvision_ops().roi_align(input, rois, *settings))
    else:
        _roi_align.roi_align_forward(input, rois, output, argmax_y, argmax_x, **kwargs)


@functools.wraps(_roi_align.roi_align_backward)
def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **kwargs):
    """Call torchvision's operator on GPUs if there is one, otherwise ours."""
    if kwargs['pool_mode'] == 1 and has_torchvision(grad_output):
        scale, height, width, ratio, aligned = _torchvision_settings(kwargs)
        grad_input.add_(
            torchvision_ops()._roi_align_backward(
                grad_output, rois.to(grad_output.dtype), scale, height, width,
                *grad_input.shape, ratio, aligned,
            )
        )  # fmt: skip
    else:
        _roi_align.roi_align_backward(
            grad_output, rois, argmax_y, argmax_x, grad_input, **kwargs
        )


def _torchvision_settings(kwargs: dict[str, Any]) -> list:
    names = 'spatial_scale aligned_height aligned_width sampling_ratio aligned'
    return [kwargs[name] for name in names.split()]


def roi_align_without_torchvision(module: Any, input: Tensor, rois: Tensor) -> Tensor:
    """Replace ``RoIAlign.forward``, which imports torchvision if ``use_torchvision``.

    Where torchvision is missing, its average is computed by the package's operator.
    """
    settings = module.output_size, module.spatial_scale, module.sampling_ratio
    if module.use_torchvision and torchvision_ops() is not None:
        from torchvision.ops import roi_align

        return roi_align(input, rois, *settings, module.aligned)
    from mmcv.ops import roi_align

    mode = 'avg' if module.use_torchvision else module.pool_mode
    return roi_align(input, rois, *settings, mode, module.aligned)


OPERATORS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        _nms.softnms,
        _nms.nms_match,
        roi_pool.roi_pool_forward,
        roi_pool.roi_pool_backward,
        roi_pool.deform_roi_pool_forward,
        roi_pool.deform_roi_pool_backward,
        carafe.carafe_forward,
        carafe.carafe_backward,
        carafe.carafe_naive_forward,
        carafe.carafe_naive_backward,
        focal_loss.sigmoid_focal_loss_forward,
        focal_loss.sigmoid_focal_loss_backward,
        focal_loss.softmax_focal_loss_forward,
        focal_loss.softmax_focal_loss_backward,
        deform_conv.deform_conv_forward,
        deform_conv.deform_conv_backward_input,
        deform_conv.deform_conv_backward_parameters,
        deform_conv.modulated_deform_conv_forward,
        deform_conv.modulated_deform_conv_backward,
        carafe.masked_im2col_forward,
        carafe.masked_col2im_forward,
        ms_deform_attn.ms_deform_attn_forward,
        ms_deform_attn.ms_deform_attn_backward,
    )
}


# Methods of mmcv's classes, by their names in REPLACED_METHODS of mmcv_stand_in.py.
REPLACEMENTS: dict[str, Callable] = {
    'CARAFENaiveFunction.backward': carafe.carafe_naive_backward_on_any_device,
    'RoIAlign.forward': roi_align_without_torchvision,
    'SyncBatchNorm.__init__': init_sync_batch_norm,
    'SyncBatchNorm.forward': forward_sync_batch_norm,
}


def __getattr__(name: str) -> Callable:
    """Return an operator by its name in mmcv, or a function that raises a UserError."""
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name in OPERATORS:
        return OPERATORS[name]
    if name in ('get_compiler_version', 'get_compiling_cuda_version'):
        return lambda: 'n/a'  # of mmcv's collect_env

    def missing(*args, **kwargs):
        raise UserError(
            f'mmcv.ops needs the operator {name!r}, and this mmcv has none of its own. '
            f'Those of mobilevig_det are {", ".join(OPERATORS)}; those for rotated '
            'boxes, as in MMRotate, are out of its scope. Compile mmcv to have all of '
            'them: docs/install.md, "With a compiled mmcv".'
        )

    return missing


def _extension():
    return importlib.import_module('mmcv._ext')


def is_compiled() -> bool:
    """Return whether mmcv has compiled operators."""
    return not (getattr(_extension(), '__file__', None) or '.py').endswith('.py')


def use_on_cpus() -> None:
    """Replace the operators of a compiled mmcv for tensors on CPUs.

    This package's operators support half types and are many times as fast there
    (docs/benchmark.md). For programs, not for libraries: the whole process changes.
    Without a compiled mmcv, and when called again, it does nothing.
    """
    extension = _extension()
    if not is_compiled():
        return
    for name, ours in OPERATORS.items():
        compiled = getattr(extension, name, None)
        if compiled is not None and not hasattr(compiled, 'compiled'):
            setattr(extension, name, _by_device(ours, compiled))


def use_compiled(*names: str) -> None:
    """Undo :func:`use_on_cpus` for some operators.

    Args:
        names (str): Names of the operators in ``mmcv._ext``, such as
            ``'roi_align_forward'``; all if none is given.

    Raises:
        UserError: If a name is not that of an operator of this package.
    """
    if unknown := set(names) - set(OPERATORS):
        raise UserError(
            f'use_compiled() got {", ".join(sorted(unknown))}, but the operators are '
            f'{", ".join(OPERATORS)}.'
        )
    extension = _extension()
    for name in names or OPERATORS:
        compiled = getattr(getattr(extension, name, None), 'compiled', None)
        if compiled is not None:
            setattr(extension, name, compiled)


def _by_device(ours: Callable, compiled: Callable) -> Callable:
    @functools.wraps(ours)
    def operator(*args, **kwargs):
        tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        on_cpu = all(tensor.device.type == 'cpu' for tensor in tensors)
        return (ours if on_cpu else compiled)(*args, **kwargs)

    operator.compiled = compiled  # type: ignore[attr-defined]
    return operator


def in_use() -> str:
    """Describe whose operators mmcv.ops calls."""
    if not is_compiled():
        return "mobilevig_det's (mmcv has none)"
    operators = [getattr(_extension(), name, None) for name in OPERATORS]
    if any(hasattr(operator, 'compiled') for operator in operators):
        return "compiled mmcv's, on CPUs mobilevig_det's"
    return "compiled mmcv's"
