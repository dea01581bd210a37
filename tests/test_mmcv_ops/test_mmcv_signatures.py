"""Operators take the arguments of mmcv's binding, by position and by name."""

import importlib
import inspect
import re

import pytest
from mmcv_reference import needs_compiled_mmcv

NAMES = {
    'deform_conv_forward': 'deform_conv',
    'deform_conv_backward_input': 'deform_conv',
    'deform_conv_backward_parameters': 'deform_conv',
    'modulated_deform_conv_forward': 'deform_conv',
    'modulated_deform_conv_backward': 'deform_conv',
    'sigmoid_focal_loss_forward': 'focal_loss',
    'sigmoid_focal_loss_backward': 'focal_loss',
    'softmax_focal_loss_forward': 'focal_loss',
    'softmax_focal_loss_backward': 'focal_loss',
    'ms_deform_attn_forward': 'ms_deform_attn',
    'ms_deform_attn_backward': 'ms_deform_attn',
    'softnms': 'nms',
}


@needs_compiled_mmcv
@pytest.mark.parametrize('name', NAMES)
def test_signature(name):
    from mmcv import _ext

    # Its first line is "name(argument: type, ...) -> type".
    line = getattr(_ext, name).__doc__.splitlines()[0]
    theirs = re.findall(r'(\w+): ', line)
    assert theirs
    ours = importlib.import_module(f'mobilevig_det.mmcv_ops.{NAMES[name]}')
    assert list(inspect.signature(getattr(ours, name)).parameters) == theirs
