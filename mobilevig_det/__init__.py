"""MobileViG for MMDetection."""
from .compat import allow_checkpoint_types
from .mobilevig import MobileViG

allow_checkpoint_types()

__all__ = ['MobileViG']
