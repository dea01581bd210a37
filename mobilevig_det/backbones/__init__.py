"""The backbones that configs name in ``type=``."""

from .base import BaseBackbone, fuse_backbones
from .mobilevig import MobileViG

__all__ = ['BaseBackbone', 'MobileViG', 'fuse_backbones']
