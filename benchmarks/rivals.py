"""What one would pick instead of MobileViG, through timm.

timm wants torchvision, of which there is no CPU build for every torch.
"""

import importlib.abc
import importlib.machinery
import sys

import torch
from torch import nn

RIVALS = (
    'resnet18',
    'resnet50',
    'mobilenetv2_140',
    'efficientnet_b0',
    'mobilevitv2_150',
    'efficientformer_l1',
    'efficientformer_l3',
    'efficientformerv2_s2',
    'efficientformerv2_l',
    'poolformer_s12',
    'poolformer_s24',
    'pvt_v2_b1',
    'pvt_v2_b2',
    'repvit_m1_1',
    'repvit_m1_5',
)


class _Anything(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith('__'):
            raise AttributeError(name)
        return name


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An empty torchvision: timm imports names from it that none of the
    backbones here uses."""

    def find_spec(self, name, path, target=None):
        if name.split('.')[0] == 'torchvision':
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):

        def attribute(name):
            if name.startswith('__'):
                raise AttributeError(name)
            return _Anything(name, (), {})

        module.__getattr__ = attribute


def import_timm():
    """timm, or None."""
    stand_in = _StandIn()
    sys.meta_path.append(stand_in)  # Asked last: a real one comes first.
    try:
        import timm

        return timm
    except ImportError as error:
        print(
            f'No rivals: timm cannot be imported ({error}); get it with: '
            'pip install timm'
        )
    finally:
        sys.meta_path.remove(stand_in)
        for name in [n for n in sys.modules if n.startswith('torchvision')]:
            spec = sys.modules[name].__spec__
            if spec and isinstance(spec.loader, _StandIn):
                del sys.modules[name]
    return None


def build_rival(name: str) -> nn.Module:
    return (
        import_timm()
        .create_model(name, features_only=True, pretrained=False)
        .to(memory_format=torch.channels_last)
    )
