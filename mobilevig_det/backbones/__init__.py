"""Backbones: MobileViG and its siblings, for ``type=`` in a config."""

from .adaptvig import AdaptViG
from .base import BaseBackbone, fuse_backbones
from .greedyvig import GreedyViG
from .mobilevig import MobileViG
from .mobilevigv2 import MobileViGv2
from .pyramidvig import PyramidViG
from .rapidnet import RapidNet

__all__ = [
    'AdaptViG',
    'BaseBackbone',
    'GreedyViG',
    'MobileViG',
    'MobileViGv2',
    'PyramidViG',
    'RapidNet',
    'fuse_backbones',
]
