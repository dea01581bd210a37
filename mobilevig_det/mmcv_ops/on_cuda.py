"""Torchvision's operators on CUDA, in place of ours, where it has the one.

Only for an mmcv without an extension: compiled mmcv comes first. Ours run on
CUDA, too, but are written for CPUs.
"""

import functools

import torch
from torch import Tensor


@functools.cache
def torchvision_ops():
    """``torch.ops.torchvision``; None if torchvision is missing, or built for
    another torch."""
    try:
        import torchvision

        torchvision.ops.nms  # noqa: B018  raises if its extension did not load
    except Exception:  # it fails in many ways
        return None
    return torch.ops.torchvision


def has_torchvision(tensor: Tensor) -> bool:
    """Whether torchvision is to compute with this tensor."""
    return tensor.is_cuda and torchvision_ops() is not None


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that stay, by falling score."""
    return torchvision_ops().nms(boxes.float(), scores.float(), iou_threshold)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int,
    aligned: bool,
) -> None:  # fmt: skip
    """Average RoIAlign, into ``output``."""
    bins = aligned_height, aligned_width
    rois = rois.to(input.dtype)
    output.copy_(
        torchvision_ops().roi_align(
            input, rois, spatial_scale, *bins, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int,
    aligned: bool,
) -> None:  # fmt: skip
    """Add the gradient of average RoIAlign to ``grad_input``."""
    bins = aligned_height, aligned_width
    rois, shape = rois.to(grad_output.dtype), grad_input.shape
    grad_input.add_(
        torchvision_ops()._roi_align_backward(
            grad_output, rois, spatial_scale, *bins, *shape, sampling_ratio, aligned
        )
    )
