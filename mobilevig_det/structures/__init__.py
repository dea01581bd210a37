"""What a pipeline carries beside the image."""

from .mask import CompactBitmapMasks

__all__ = ['CompactBitmapMasks']
