"""What of a detector a phone's runtime can take: its backbone and its neck."""

from mmdet.models import BaseDetector
from torch import Tensor, nn

from ..backbones import fuse_backbones
from ..errors import UserError


class BackboneWithNeck(nn.Module):
    """A detector's backbone, fused, and its neck if it has one; in eval mode.

    Args:
        detector (BaseDetector): Any of MMDetection's with a backbone of ours.

    Raises:
        UserError: If it has none.
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
        """Compute the maps.

        Args:
            image (Tensor): Normalised and padded, of shape (B, 3, H, W).

        Returns:
            tuple[Tensor]: One map a level, each (B, C, h, w).
        """
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))
