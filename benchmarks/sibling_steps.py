"""The siblings' graph steps beside the authors', at the stages of 800 x 1216."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

from mobilevig_det.backbones import AdaptViG, GreedyViG, MobileViGv2
from mobilevig_det.ops import cross_max, gated_max, thresholded_max

import torch
import torch.nn.functional as F
from torch import Tensor

from .authors_siblings import agc, dagc, mgc
from .turns import in_turns

IMAGE = (800, 1216)
# Name, ours, the authors', the backbone with the stages' channels and strides.
STEPS = (
    ('MobileViGv2-m', cross_max, mgc, MobileViGv2, 'm'),
    ('GreedyViG-s', thresholded_max, dagc, GreedyViG, 's'),
    ('AdaptViG-s', gated_max, agc, AdaptViG, 's'),
)


def smooth_map(channels: int, height: int, width: int) -> Tensor:
    """Noise on blobs of 8 pixels: some neighbours are alike, others are not."""
    torch.manual_seed(0)
    blobs = torch.randn(1, channels, height // 8 + 1, width // 8 + 1)
    blobs = F.interpolate(blobs, (height, width), mode='bilinear')
    return torch.randn(1, channels, height, width) + 2 * blobs


def make_step(
    args: Namespace,
    function: Callable,
    size: tuple[int, int, int],
    stride: int,
    layout: torch.memory_format,
    backward: bool,
):
    x = smooth_map(*size).to(args.device).contiguous(memory_format=layout)
    grad = torch.randn_like(x)
    inputs = [x]
    if function in (agc, gated_max):  # gates near 1 / e
        inputs.append(torch.tensor(2.0 * size[0], device=args.device))
    for tensor in inputs:
        tensor.requires_grad_(backward)

    def run():
        out = function(*inputs, stride)
        if backward:
            torch.autograd.grad(out, inputs, grad)

    return dict(elements=math.prod(size)), run


def sibling_rows(args: Namespace) -> Iterator[dict]:
    """Each in the memory format that its backbone runs it in."""
    for name, ours, theirs, backbone, arch in STEPS:
        setting = backbone.arch_settings[arch]
        for i, stride in enumerate(backbone.graph_strides):
            if not setting['graph_blocks'][i]:
                continue
            size = setting['channels'][i], *(side // 2 ** (i + 2) for side in IMAGE)
            for kind in ('forward', 'forward + backward'):
                base = f'{name}, authors'
                rows = [
                    dict(
                        part=f'graph steps, {kind}',
                        size='x'.join(map(str, (1, *size))),
                        name=row,
                        base=base,
                    )
                    for row in (base, name)
                ]
                makes = [
                    partial(
                        make_step,
                        function=function,
                        size=size,
                        stride=stride,
                        layout=layout,
                        backward=kind != 'forward',
                    )
                    for function, layout in (
                        (theirs, torch.contiguous_format),
                        (ours, torch.channels_last),
                    )
                ]
                yield from in_turns(rows, makes, args.rounds, args)
