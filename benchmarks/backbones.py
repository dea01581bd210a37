"""Every size of MobileViG, and its siblings, beside the authors' and its rivals."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

from mobilevig_det.backbones import (
    AdaptViG,
    BaseBackbone,
    GreedyViG,
    MobileViG,
    MobileViGv2,
    RapidNet,
)

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .authors import Authors
from .authors_siblings import (
    AuthorsAdaptViG,
    AuthorsGreedyViG,
    AuthorsMobileViGv2,
    AuthorsRapidNet,
)
from .rivals import build_rival, import_timm
from .turns import in_turns

BACKBONE_AMP = torch.bfloat16  # under --amp
MATRIX_PRODUCT = 'matrix product'
# Name of a sibling and size to ours and the authors'.
SIBLINGS = {
    f'{cls.__name__}-{arch}': (cls, authors, arch)
    for cls, authors in (
        (MobileViGv2, AuthorsMobileViGv2),
        (GreedyViG, AuthorsGreedyViG),
        (RapidNet, AuthorsRapidNet),
        (AdaptViG, AuthorsAdaptViG),
    )
    for arch in cls.arch_settings
}


def make_matrix_product(args: Namespace):
    """The ceiling: what the machine reaches at a plain matrix product."""
    n = 2048 if args.device == 'cpu' else 8192
    a = torch.rand(n, n, device=args.device)
    return dict(gmacs=n**3 / 1e9, params=0), lambda: a @ a


def build(cls, arch: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return cls(arch, layer_scale_init_value=0.5, **kwargs)


def make_inference(args: Namespace, size: str, build: Callable, fuse: bool = False):
    model = build().eval().to(args.device)
    images = torch.rand(
        args.batch_size, 3, *map(int, size.split('x')), device=args.device
    )
    if not isinstance(model, BaseBackbone):
        images = images.contiguous(memory_format=torch.channels_last)
    counter = FlopCounterMode(display=False)

    def run():
        with torch.no_grad():
            model(images)

    with counter:
        run()
    facts = dict(
        params=sum(p.numel() for p in model.parameters()),
        gmacs=counter.get_total_flops() / 2e9 / len(images),
    )
    if fuse:
        model.fuse()
    return facts, run


def authors_of(name: str) -> str:
    """The row that a row of that name is compared with."""
    return name.split(',')[0] + ', authors'


def contestants(args: Namespace) -> dict[str, tuple[Callable, Callable]]:
    """What builds each backbone, and what builds it as the authors run it."""
    chosen: dict[str, tuple] = {
        f'MobileViG-{arch}': (MobileViG, Authors, arch) for arch in args.archs
    }
    chosen.update((name, SIBLINGS[name]) for name in args.siblings)
    return {
        name: (partial(build, ours, arch), partial(build, theirs, arch))
        for name, (ours, theirs, arch) in chosen.items()
    }


def inference_rows(args: Namespace) -> Iterator[dict]:
    rivals = args.rivals if args.rivals and import_timm() else ()
    for size in args.sizes:
        make = partial(make_inference, size=size)
        makes = {MATRIX_PRODUCT: make_matrix_product}
        for name, (ours, theirs) in contestants(args).items():
            makes[f'{name}, authors'] = partial(make, build=theirs)
            makes[name] = partial(make, build=ours)
            makes[f'{name}, fused'] = partial(make, build=ours, fuse=True)
        for name in rivals:
            makes[name] = partial(make, build=partial(build_rival, name))
        yield from in_turns(
            [
                dict(part='inference', size=size, name=name, base=authors_of(name))
                for name in makes
            ],
            list(makes.values()),
            args.rounds,
            args,
        )


def make_training(args: Namespace, build: Callable):
    """Forward and backward of the mean square of every feature."""
    model = build().train().to(args.device)
    images = torch.rand(
        args.batch_size, 3, *map(int, args.sizes[-1].split('x')), device=args.device
    )

    def run():
        model.zero_grad()
        with torch.autocast(args.device, BACKBONE_AMP, enabled=args.amp):
            loss = sum(out.square().mean() for out in model(images))
        loss.backward()

    return {}, run


def training_rows(args: Namespace) -> Iterator[dict]:
    for name, (ours, theirs) in contestants(args).items():
        makes: dict[str, Callable] = {
            f'{name}, authors': theirs,
            name: ours,
            f"{name}, with_cp='act'": partial(ours, with_cp='act'),
        }
        yield from in_turns(
            [
                dict(
                    part='training step',
                    size=args.sizes[-1],
                    name=name,
                    base=authors_of(name),
                )
                for name in makes
            ],
            [partial(make_training, build=b) for b in makes.values()],
            max(args.rounds - 2, 1),
            args,
        )
