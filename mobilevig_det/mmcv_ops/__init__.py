"""Pure-PyTorch replacements for the compiled operators of ``mmcv._ext``."""

from .mmcv_ext import use_on_cpus

__all__ = ['use_on_cpus']
