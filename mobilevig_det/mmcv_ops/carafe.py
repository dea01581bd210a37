"""CARAFE upsampling and masked convolution, as in mmcv's extension.

Source: CARAFE: Content-Aware ReAssembly of FEatures (ICCV 2019, arXiv 1905.02188),
section 3.2. A pixel of the output is the weighted sum of the k x k pixels around its
source, with weights of its own. All pixels of the output that share a source are one
matrix product, for some rows of the feature map at a time. Half types are summed in
float32.

mmcv's own kernels use buffers (``routput``, ``rmasks`` and the like) that are ignored
here, except for ``rfeatures``, which the backward gets in the place of the features.

Masked convolution copies the pixels under the kernel, at some pixels only. Guided
anchoring uses it at inference. Source: Region Proposal by Guided Anchoring (CVPR 2019,
arXiv 1901.03278), section 3.2.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .bilinear import parts, wide_dtype


def _row_slices(features: Tensor, kernel_size: int) -> Iterator[slice]:
    """Yield the rows of the feature map that are computed together."""
    size = features[:, :, 0].numel() * kernel_size**2
    return parts(features.shape[2], size, features.device)


def _columns(padded: Tensor, rows: slice, kernel_size: int, groups: int) -> Tensor:
    """Return the pixels around each pixel of some rows.

    They are of shape (B, groups, C / groups, k * k, pixels).
    """
    window = padded[:, :, rows.start : rows.stop + kernel_size - 1]
    columns = F.unfold(window, kernel_size)
    channels = padded.shape[1] // groups
    return columns.unflatten(1, (groups, channels, kernel_size**2))


def _by_source(maps: Tensor, rows: slice, groups: int, scale: int) -> Tensor:
    """Group the pixels of an upsampled map by the pixel that they come from.

    Some rows of (B, channels, H * s, W * s) become (B, groups, channels / groups,
    pixels of the feature map, s * s).
    """
    maps = maps[:, :, rows.start * scale : rows.stop * scale]
    maps = maps.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).transpose(3, 4)
    maps = maps.flatten(4).flatten(2, 3)
    return maps.unflatten(1, (groups, maps.shape[1] // groups))


def _write_rows(values: Tensor, maps: Tensor, rows: slice, scale: int) -> None:
    """Write the result of :func:`_by_source` back to the maps."""
    values = values.flatten(1, 2).unflatten(3, (scale, scale))
    values = values.unflatten(2, (rows.stop - rows.start, -1)).transpose(3, 4)
    maps[:, :, rows.start * scale : rows.stop * scale] = values.flatten(4).flatten(2, 3)


@torch.no_grad()
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int,
    scale_factor: int,
) -> None:  # fmt: skip
    """Write the upsampled features to ``output``.

    Args:
        features (Tensor): Of shape (B, C, H, W). Around it are zeros.
        masks (Tensor): Weights of shape (B, groups * k * k, H * s, W * s).
        output (Tensor): Is filled; of shape (B, C, H * s, W * s).
        kernel_size (int): k, odd, in pixels.
        group_size (int): Groups of channels, each with masks of its own.
        scale_factor (int): s, pixels of the output for each pixel along an axis.
    """
    dtype = wide_dtype(features.dtype)
    padded = F.pad(features.to(dtype), [kernel_size // 2] * 4)
    with torch.autocast(features.device.type, enabled=False):
        for rows in _row_slices(features, kernel_size):
            columns = _columns(padded, rows, kernel_size, group_size)
            mask = _by_source(masks, rows, group_size, scale_factor).to(dtype)
            sums = torch.einsum('bgckl,bgkls->bgcls', columns, mask)
            _write_rows(sums, output, rows, scale_factor)


@torch.no_grad()
def carafe_naive_backward(
    grad_output: Tensor, features: Tensor, masks: Tensor, grad_input: Tensor,
    grad_masks: Tensor, kernel_size: int, group_size: int, scale_factor: int,
) -> None:  # fmt: skip
    """Write the gradients of the features and of the masks."""
    dtype = wide_dtype(features.dtype)
    border = kernel_size // 2
    padded = F.pad(features.to(dtype), [border] * 4)
    of_padded = torch.zeros_like(padded)
    with torch.autocast(features.device.type, enabled=False):
        for rows in _row_slices(features, kernel_size):
            columns = _columns(padded, rows, kernel_size, group_size)
            mask = _by_source(masks, rows, group_size, scale_factor).to(dtype)
            grad = _by_source(grad_output, rows, group_size, scale_factor).to(dtype)
            of_mask = torch.einsum('bgckl,bgcls->bgkls', columns, grad)
            _write_rows(of_mask, grad_masks, rows, scale_factor)
            of_columns = torch.einsum('bgcls,bgkls->bgckl', grad, mask).flatten(1, 3)
            window = of_padded[:, :, rows.start : rows.stop + 2 * border]
            window += F.fold(of_columns, window.shape[2:], kernel_size)
    height, width = features.shape[2:]
    grad_input.copy_(of_padded[:, :, border : border + height, border : border + width])


def carafe_naive_backward_on_any_device(ctx: Any, grad_output: Tensor) -> tuple:
    """Replace ``CARAFENaiveFunction.backward``, which refuses tensors on CPUs."""
    features, masks = ctx.saved_tensors
    of_features, of_masks = torch.zeros_like(features), torch.zeros_like(masks)
    settings = ctx.kernel_size, ctx.group_size, ctx.scale_factor
    carafe_naive_backward(
        grad_output, features, masks, of_features, of_masks, *settings
    )
    return of_features, of_masks, None, None, None


def carafe_forward(
    features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor, rmasks: Tensor,
    output: Tensor, kernel_size: int, group_size: int, scale_factor: int,
) -> None:  # fmt: skip
    """Write the upsampled features to ``output`` and the features to ``rfeatures``."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor, rfeatures: Tensor, masks: Tensor, rgrad_output: Tensor,
    rgrad_input_hs: Tensor, rgrad_input: Tensor, rgrad_masks: Tensor,
    grad_input: Tensor, grad_masks: Tensor, kernel_size: int, group_size: int,
    scale_factor: int,
) -> None:  # fmt: skip
    """Write the gradients of the features and of the masks."""
    carafe_naive_backward(
        grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size,
        scale_factor,
    )  # fmt: skip


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Copy the pixels under the kernel at each pixel of the mask to a column.

    Args:
        im (Tensor): Feature map of shape (1, C, H, W).
        mask_h_idx (Tensor): Row of each pixel, int64 of shape (N,).
        mask_w_idx (Tensor): Column of each pixel.
        col (Tensor): Is filled; of shape (C * kernel_h * kernel_w, N).
        kernel_h (int): Height of the kernel, in pixels.
        kernel_w (int): Width of the kernel, in pixels.
        pad_h (int): Rows of zeros above and below the map.
        pad_w (int): Columns of zeros left and right of the map.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Copy each column of ``col`` (channels, N) to a pixel of the mask in ``im``.

    ``im`` is of shape (1, channels, height, width).
    """
    im[0, :, mask_h_idx, mask_w_idx] = col
