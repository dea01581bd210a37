"""MobileViG for MMDetection."""
from . import weights  # noqa: F401  (registers mobilevig:// addresses)
from .compat import allow_checkpoint_types
from .mobilevig import MobileViG

allow_checkpoint_types()

__version__ = '0.1.0'

__all__ = ['MobileViG', '__version__']
