"""Backbones for ``type=``: MobileViG, its siblings, and models of timm."""

from .adaptvig import AdaptViG
from .base import BaseBackbone, fuse_backbones
from .greedyvig import GreedyViG
from .mobilevig import MobileViG
from .mobilevigv2 import MobileViGv2
from .pyramidvig import PyramidViG
from .rapidnet import RapidNet
from .timm_backbone import TimmBackbone

__all__ = [
    'AdaptViG',
    'BaseBackbone',
    'GreedyViG',
    'MobileViG',
    'MobileViGv2',
    'PyramidViG',
    'RapidNet',
    'TimmBackbone',
    'fuse_backbones',
]
