"""Backbone latency: ours, the reference implementation and baselines from timm."""

import contextlib
import importlib.abc
import importlib.machinery
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

from mobilevig_det.backbones import (
    AdaptViG,
    BaseBackbone,
    GreedyViG,
    MobileViG,
    MobileViGv2,
    RapidNet,
    TimmBackbone,
    fuse_backbones,
)
from mobilevig_det.errors import UserError

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .interleaved import interleaved
from .reference import REFERENCES

BACKBONE_AMP = torch.bfloat16  # dtype under --amp
MATRIX_PRODUCT = 'matrix product'
SIBLINGS = {
    f'{cls.__name__}-{arch}': (cls, arch)
    for cls in (MobileViGv2, GreedyViG, RapidNet, AdaptViG)
    for arch in cls.arch_settings
}
# Alternatives to MobileViG, by their names in timm.
BASELINES = (
    'resnet18',
    'resnet50',
    'mobilenetv2_100',
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
    'deit_small_patch16_224',
    'swin_tiny_patch4_window7_224',
    # Made for phones or CPUs, later than MobileViG.
    'mobilenetv4_conv_small',
    'mobilenetv4_conv_medium',
    'fastvit_t8',
    'fastvit_sa12',
    'starnet_s3',
    'edgenext_small',
    'cpubone_b1_dwnorm',
)


def make_matrix_product(args: Namespace):
    """Make a plain matrix product, whose rate is the ceiling for all other rows."""
    n = 2048 if args.device == 'cpu' else 8192
    a = torch.rand(n, n, device=args.device)
    return dict(gmacs=n**3 / 1e9, params=0), lambda: a @ a


def count_work(model: nn.Module, run: Callable, images: int = 1) -> dict[str, float]:
    """Count a model's parameters, and the GMACs per image of a call of ``run``."""
    with FlopCounterMode(display=False) as counter:
        run()
    return dict(
        params=sum(p.numel() for p in model.parameters()),
        gmacs=counter.get_total_flops() / 2e9 / images,
    )


def build(cls: type[BaseBackbone], arch: str, reference: bool = False, **kwargs):
    """Build a backbone of ours, or its reference implementation, with fixed weights."""
    torch.manual_seed(0)
    cls = REFERENCES[cls] if reference else cls
    return cls(arch, layer_scale_init_value=0.5, **kwargs)


def build_baseline(name: str, size: str) -> nn.Module:
    """Build a model of timm for an input size.

    What is no backbone for detectors, as it takes 224x224 only or has one scale, is
    timm's own model for features.
    """
    timm = import_timm()
    args: dict = {}
    if name.startswith('swin'):
        args = dict(strict_img_size=False)
    elif name.startswith('efficientformerv2'):
        args = dict(img_size=tuple(map(int, size.split('x'))))
    try:
        return TimmBackbone(name, **args)
    except UserError:
        return timm.create_model(name, features_only=True)


def random_images(args: Namespace, size: str) -> Tensor:
    """Make float32 images of shape (B, 3, H, W) for a size such as '224x224'."""
    sides = map(int, size.split('x'))
    return torch.rand(args.batch_size, 3, *sides, device=args.device)


def make_inference(args: Namespace, size: str, build: Callable, fuse: bool = False):
    """Make an inference run of a backbone.

    Args:
        args (Namespace): Arguments of the command.
        size (str): Size of the images, as 'HEIGHTxWIDTH'.
        build (Callable): Builds the backbone.
        fuse (bool): Whether to fold its BatchNorm. Defaults to False.

    Returns:
        tuple[dict, Callable]: Facts about the row, and the function to time.
    """
    model = build().eval().to(args.device)
    images = random_images(args, size)
    if not isinstance(model, BaseBackbone):
        images = images.contiguous(memory_format=torch.channels_last)

    def run():
        with torch.no_grad():
            model(images)

    facts = count_work(model, run, len(images))
    if fuse:
        fuse_backbones(model)
    return facts, run


def _base_of(name: str) -> str:
    return name.split(',')[0] + ', authors'


def _chosen(args: Namespace) -> dict[str, Callable]:
    """Return functions that build the chosen backbones, by name.

    With ``reference=True`` they build the reference implementations.
    """
    sizes = {f'MobileViG-{arch}': (MobileViG, arch) for arch in args.archs}
    sizes.update((name, SIBLINGS[name]) for name in args.siblings)
    return {name: partial(build, cls, arch) for name, (cls, arch) in sizes.items()}


def inference_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of all backbones in eval mode at each of ``args.sizes``."""
    baselines = BASELINES if args.baselines is None else args.baselines
    if baselines and not import_timm():
        baselines = ()
    for size in args.sizes:
        make = partial(make_inference, size=size)
        makes: dict[str, Callable] = {MATRIX_PRODUCT: make_matrix_product}
        for name, ours in _chosen(args).items():
            makes[_base_of(name)] = partial(make, build=partial(ours, reference=True))
            makes[name] = partial(make, build=ours)
            makes[f'{name}, fused'] = partial(make, build=ours, fuse=True)
        for name in baselines:
            makes[name] = partial(make, build=partial(build_baseline, name, size))
        yield from interleaved(args, 'inference', size, makes, _base_of)


def _make_training(args: Namespace, build: Callable):
    """Make a forward and backward pass of the mean square of every feature map."""
    model = build().train().to(args.device)
    images = random_images(args, args.sizes[-1])

    def run():
        model.zero_grad()
        with torch.autocast(args.device, BACKBONE_AMP, enabled=args.amp):
            loss = sum(out.square().mean() for out in model(images))
        loss.backward()

    return {}, run


def training_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of training steps at the last of ``args.sizes``."""
    size, rounds = args.sizes[-1], max(args.rounds - 2, 1)
    for name, ours in _chosen(args).items():
        builds = {
            _base_of(name): partial(ours, reference=True),
            name: ours,
            f"{name}, with_cp='act'": partial(ours, with_cp='act'),
        }
        makes = {key: partial(_make_training, build=b) for key, b in builds.items()}
        yield from interleaved(args, 'training step', size, makes, _base_of, rounds)


class _AnyName(type):
    """Class with a class for each attribute."""

    def __getattr__(cls, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return _AnyName(name, (), {})


class _TorchvisionStandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Importer of an empty torchvision, which has no CPU build for some torch versions.

    timm and MMPretrain import classes from it, some as base classes, that nothing here
    uses.
    """

    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, name, path, target=None):
        if name.split('.')[0] == 'torchvision':
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        self.made.append(spec.name)

    def exec_module(self, module):
        names = _AnyName(module.__name__, (), {})
        module.__getattr__ = lambda name: getattr(names, name)


@contextlib.contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Make an empty torchvision importable in the block if none is installed."""
    stand_in = _TorchvisionStandIn()
    # The last one, so that an installed torchvision takes precedence.
    sys.meta_path.append(stand_in)
    try:
        yield
    finally:
        sys.meta_path.remove(stand_in)
        for name in stand_in.made:
            del sys.modules[name]


def import_timm() -> ModuleType | None:
    """Import timm, or print why the baselines are left out and return None."""
    try:
        with torchvision_stand_in():
            import timm
    except ImportError as error:
        print(
            f'The baselines are left out: timm cannot be imported ({error}). '
            'Install it with: pip install timm'
        )
        return None
    return timm
