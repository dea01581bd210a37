"""Backbone with neck: the part of a detector that runtimes of phones can run."""

import torch
from mmdet.models import BaseDetector
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..backbones import fuse_backbones
from ..errors import UserError


class BackboneWithNeck(nn.Module):
    """A detector's fused backbone, and its neck if it has one, in eval mode.

    Args:
        detector (BaseDetector): Any detector of MMDetection with one of our
            backbones.

    Raises:
        UserError: If it has another backbone.
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
            image (Tensor): Normalised and padded, of shape (B, 3, H, W).

        Returns:
            tuple[Tensor]: One feature map a level, each (B, C, h, w).
        """
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))


def require_size(size: tuple[int, int] | None, format_name: str) -> tuple[int, int]:
    """Return the image size (height, width); raise a UserError if there is none."""
    if size is None:
        raise UserError(
            f'--format {format_name} needs the size of the images: --size H W, for '
            'instance --size 224 224.'
        )
    return size


def export_program(model: nn.Module, size: tuple[int, int]) -> ExportedProgram:
    """Run ``torch.export`` for images of shape (1, 3, \\*size).

    Raises:
        UserError: If the model does not accept that size, or PyTorch cannot export
            it.
    """
    image = torch.zeros(1, 3, *size)
    with torch.no_grad():
        model(image)  # its own error says what is wrong with the size
        try:
            return torch.export.export(model, (image,))
        except Exception as error:  # of many types
            reason = str(error).strip().split('\n')[0]
            raise UserError(
                f'torch.export (torch {torch.__version__}) cannot export this '
                f'model: {reason}'
            ) from error
