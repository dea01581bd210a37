"""Operators on PyTorch alone."""

from .allocator import keep_freed_memory
from .mmcv_ext import use_on_cpus
from .svga import max_relative

__all__ = ['keep_freed_memory', 'max_relative', 'use_on_cpus']
