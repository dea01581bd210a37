"""MobileViG for MMDetection."""
from .versions import check_stack

check_stack()  # before anything below is imported and fails in its own way

from . import registry  # mobilevig_det:: in configs
from . import weights  # mobilevig:// addresses
from .checkpoints.safe_types import allow_checkpoint_types
from .backbones.mobilevig import MobileViG

allow_checkpoint_types()

__version__ = '0.1.0'

__all__ = ['MobileViG', '__version__']
