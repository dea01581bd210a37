"""The backbones that configs name in ``type=``."""

from .mobilevig import MobileViG

__all__ = ['MobileViG']
