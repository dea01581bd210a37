"""Graph steps, compared with the reference implementation.

MobileViG's step is measured at several sizes of feature maps, and those of its
siblings at the stages of an 800x1216 image.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from mobilevig_det.backbones import AdaptViG, GreedyViG, MobileViGv2
from mobilevig_det.ops import cross_max, gated_max, max_relative, thresholded_max

import torch
import torch.nn.functional as F
from torch import Tensor

from .interleaved import interleaved
from .reference import agc, dagc, mgc, svga

MEMORY_FORMATS = {'': torch.contiguous_format, ', channels-last': torch.channels_last}
KINDS = {'forward': False, 'forward + backward': True}
# Limit in bytes of what the reference keeps for its backward pass. Rows above the limit
# are omitted.
REFERENCE_LIMIT = 2e9
SIBLING_IMAGE = (800, 1216)
# Name, our function, the reference, and the backbone that gives channels and strides.
SIBLING_STEPS = (
    ('MobileViGv2-m', cross_max, mgc, MobileViGv2, 'm'),
    ('GreedyViG-s', thresholded_max, dagc, GreedyViG, 's'),
    ('AdaptViG-s', gated_max, agc, AdaptViG, 's'),
)


def _make_step(
    args: Namespace,
    function: Callable,
    shape: Sequence[int],
    layout: torch.memory_format,
    backward: bool,
    make_map: Callable[..., Tensor] = torch.randn,
    stride: tuple[int, ...] = (),
):
    x = make_map(*shape).to(args.device).contiguous(memory_format=layout)
    grad = torch.randn_like(x)
    inputs = [x]
    if function in (agc, gated_max):  # a temperature that gives gates near 1 / e
        inputs.append(torch.tensor(2.0 * shape[1], device=args.device))
    for tensor in inputs:
        tensor.requires_grad_(backward)

    def run():
        out = function(*inputs, *stride)
        if backward:
            torch.autograd.grad(out, inputs, grad)

    return dict(elements=x.numel()), run


def graph_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of MobileViG's graph step at each of ``args.graph_shapes``."""
    for size in args.graph_shapes:
        shape = [int(n) for n in size.split('x')]
        kept = 8 * math.prod(shape) * sum(-(-n // 2) - 1 for n in shape[2:])
        for kind, backward in KINDS.items():
            functions = {'definition': svga, 'ours': max_relative}
            if backward and kept > REFERENCE_LIMIT:
                del functions['definition']
            make = partial(_make_step, shape=shape, backward=backward)
            makes = {
                name + suffix: partial(make, function=function, layout=layout)
                for suffix, layout in MEMORY_FORMATS.items()
                for name, function in functions.items()
            }
            part = f'graph step, {kind}'
            yield from interleaved(args, part, size, makes, base=_definition_of)


def _definition_of(name: str) -> str:
    return name.replace('ours', 'definition')


def smooth_map(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Make a feature map with similar neighbours: noise on blobs of 8 pixels."""
    torch.manual_seed(0)
    blobs = torch.randn(batch, channels, height // 8 + 1, width // 8 + 1)
    blobs = F.interpolate(blobs, (height, width), mode='bilinear')
    return torch.randn(batch, channels, height, width) + 2 * blobs


def sibling_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of the siblings' graph steps, each in its backbone's memory format."""
    for name, ours, reference, backbone, arch in SIBLING_STEPS:
        setting = backbone.arch_settings[arch]
        for i, stride in enumerate(backbone.graph_strides):
            if not setting['graph_blocks'][i]:
                continue
            sides = [side // 2 ** (i + 2) for side in SIBLING_IMAGE]
            shape = [1, setting['channels'][i], *sides]
            size, base = 'x'.join(map(str, shape)), f'{name}, authors'
            step = partial(
                _make_step, shape=shape, make_map=smooth_map, stride=(stride,)
            )
            for kind, backward in KINDS.items():
                make = partial(step, backward=backward)
                contiguous, last = MEMORY_FORMATS.values()
                makes = {
                    base: partial(make, function=reference, layout=contiguous),
                    name: partial(make, function=ours, layout=last),
                }
                yield from interleaved(args, f'graph steps, {kind}', size, makes, base)
