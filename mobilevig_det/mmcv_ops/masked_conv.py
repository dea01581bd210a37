"""Masked convolution, under the names and arguments of mmcv's extension.

Guided anchoring uses it at inference. Source: Region Proposal by Guided Anchoring
(CVPR 2019, arXiv 1901.03278), section 3.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Copy each column of ``col``, (channels, N), to a pixel of the mask in ``im``,
    (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
