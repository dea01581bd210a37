"""Deformable convolution under the names of mmcv's extension.

What ``mmcv.ops.deform_conv`` and ``mmcv.ops.modulated_deform_conv`` call: the
arguments are theirs, and results are written into their buffers. Gradients of
the map and of the parameters are added to what is there, as mmcv adds them.
``columns``, ``ones`` and ``im2col_step`` size its own buffers; ours need none.
"""

from torch import Tensor

from .deform_conv import Geometry, check, convolve, convolve_backward


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Version 1: write the result to ``output``."""
    geometry = Geometry(
        (kH, kW),
        (dH, dW),
        (padH, padW),
        (dilationH, dilationW),
        group,
        deformable_group,
    )
    check(input, offset, weight, None, None, geometry)
    output.copy_(convolve(input, offset, weight, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Version 1: gradients of the map and of the offset."""
    geometry = Geometry(
        (kH, kW),
        (dH, dW),
        (padH, padW),
        (dilationH, dilationW),
        group,
        deformable_group,
    )
    grad_input, grad_offset, _, _ = convolve_backward(
        gradOutput, input, offset, weight, None, geometry, of_weight=False
    )
    gradInput.add_(grad_input)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Version 1: gradient of the weight, times ``scale``."""
    geometry = Geometry(
        (kH, kW),
        (dH, dW),
        (padH, padW),
        (dilationH, dilationW),
        group,
        deformable_group,
    )
    # The weight itself doesn't count: its gradient has the same shape.
    _, _, grad_weight, _ = convolve_backward(
        gradOutput, input, offset, gradWeight, None, geometry, of_samples=False
    )
    gradWeight.add_(grad_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Version 2: write the result to ``output``."""
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    check(input, offset, weight, bias if with_bias else None, mask, geometry)
    output.copy_(convolve(input, offset, weight, mask, geometry))
    if with_bias:
        output.add_(bias[:, None, None])


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Version 2: all gradients."""
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    of_input, of_offset, of_weight, of_mask = convolve_backward(
        grad_output, input, offset, weight, mask, geometry
    )
    grad_input.add_(of_input)
    grad_weight.add_(of_weight)
    grad_offset.copy_(of_offset)
    grad_mask.copy_(of_mask)
    if with_bias:
        grad_bias.add_(grad_output.sum((0, 2, 3)))
