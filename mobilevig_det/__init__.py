"""MobileViG for MMDetection."""

import sys
from contextlib import suppress
from importlib import import_module

from .versions import StackError, check_stack

try:
    check_stack()  # before anything below is imported and fails in its own way
except StackError:
    if sys.orig_argv[-3:] != ['-m', __name__, 'env']:
        raise
    # The tool that reports it: Python would not come as far as __main__.py.
    import_module(f'{__name__}.cli').main()
    sys.exit()

from . import registry  # noqa: E402  mobilevig_det:: in configs
from .mmcv_ops.provide import provide_mmcv_ext  # noqa: E402

provide_mmcv_ext()  # before anything below imports mmcv.ops

from .backbones import AdaptViG, GreedyViG, MobileViG, MobileViGv2, RapidNet  # noqa: E402
from .checkpoints import allow_checkpoint_types  # noqa: E402

allow_checkpoint_types()

if sys.modules.get('timm'):
    from .errors import UserError

    with suppress(UserError):  # An old timm: who imports the module is told.
        from . import timm_models  # noqa: F401  registers

__version__ = '0.2.0'

__all__ = [
    'AdaptViG',
    'GreedyViG',
    'MobileViG',
    'MobileViGv2',
    'RapidNet',
    '__version__',
    'registry',
]
