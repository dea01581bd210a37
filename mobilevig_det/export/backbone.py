"""Backbone with neck: the part of a detector that mobile runtimes support."""

import torch
from mmdet.models import BaseDetector
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..backbones import fuse_backbones
from ..errors import UserError


class BackboneWithNeck(nn.Module):
    """A detector's fused backbone, and its neck if it has one, in eval mode.

    Args:
        detector (BaseDetector): Any MMDetection detector with a backbone of
            mobilevig_det.

    Raises:
        UserError: If the detector has another backbone.
    """

    def __init__(self, detector: BaseDetector):
        super().__init__()
        backbone = getattr(detector, 'backbone', None)
        if backbone is None or not fuse_backbones(backbone.eval()):
            raise UserError(
                f'{type(detector).__name__} has no backbone of mobilevig_det to '
                f'export, but {type(backbone).__name__}: choose a config with '
                "backbone=dict(type='MobileViG', ...)."
            )
        self.backbone = backbone
        self.neck = getattr(detector, 'neck', None)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            image (Tensor): Normalised and padded images, shape (B, 3, H, W).

        Returns:
            tuple[Tensor]: One feature map for each level, each of shape (B, C, h, w).
        """
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))


def require_size(size: tuple[int, int] | None, format_name: str) -> tuple[int, int]:
    """Return the image size, which the format needs.

    Args:
        size (tuple[int, int] | None): Height and width.
        format_name (str): The format, for the error message.

    Raises:
        UserError: If the size is None.
    """
    if size is None:
        raise UserError(
            f'--format {format_name} needs the size of the images: --size H W, for '
            'instance --size 224 224.'
        )
    return size


def export_program(model: nn.Module, size: tuple[int, int]) -> ExportedProgram:
    """Run ``torch.export`` for one image of a fixed size.

    Args:
        model (nn.Module): The model, in eval mode.
        size (tuple[int, int]): Height and width of the image.

    Raises:
        UserError: If the model does not accept images of that size, or PyTorch can't
            export the model.
    """
    image = torch.zeros(1, 3, *size)
    with torch.no_grad():
        model(image)  # raises a clear error if the size is invalid
        try:
            return torch.export.export(model, (image,))
        except Exception as error:  # of many types
            reason = str(error).strip().split('\n')[0]
            raise UserError(
                f'torch.export (torch {torch.__version__}) cannot export this '
                f'model: {reason}'
            ) from error
