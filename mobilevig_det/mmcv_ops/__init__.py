"""Pure-PyTorch replacements for the compiled operators of ``mmcv._ext``."""

from .mmcv_ext import provide_mmcv_ext, use_compiled, use_on_cpus

__all__ = ['provide_mmcv_ext', 'use_compiled', 'use_on_cpus']
