"""MobileViG for MMDetection."""

from .versions import check_stack

check_stack()  # before anything below is imported and fails in its own way

from . import registry  # noqa: E402  mobilevig_det:: in configs
from .ops.provide import provide_mmcv_ext  # noqa: E402

provide_mmcv_ext()  # before anything below imports mmcv.ops

from .backbones import MobileViG  # noqa: E402
from .checkpoints import allow_checkpoint_types  # noqa: E402

allow_checkpoint_types()

__version__ = '0.2.0'

__all__ = ['MobileViG', '__version__', 'registry']
