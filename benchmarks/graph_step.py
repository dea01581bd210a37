"""The graph step beside its definition, as the map grows."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

from mobilevig_det.ops import max_relative

import torch

from .authors import definition
from .turns import in_turns

GRAPH_SHAPES = ('2x400x25x42', '2x464x25x42', '2x400x50x84', '2x100x100x168')
MEMORY_FORMATS = {'': torch.contiguous_format, ', channels-last': torch.channels_last}
# The definition's backward would keep more than so many bytes.
DEFINITION_LIMIT = 2e9


def make_graph(args: Namespace, function: Callable, shape: list[int], layout, backward):
    x = torch.randn(shape, device=args.device).contiguous(memory_format=layout)
    grad = torch.randn_like(x)
    x.requires_grad_(backward)

    def run():
        out = function(x)
        if backward:
            torch.autograd.grad(out, x, grad)

    return dict(elements=x.numel()), run


def graph_rows(args: Namespace) -> Iterator[dict]:
    for size in args.graph_shapes:
        shape = [int(n) for n in size.split('x')]
        kept = 8 * math.prod(shape) * sum(-(-n // 2) - 1 for n in shape[2:])
        for kind in ('forward', 'forward + backward'):
            backward = kind != 'forward'
            rows_of_kind, makes = [], []
            for end, layout in MEMORY_FORMATS.items():
                for name, function in (
                    ('definition', definition),
                    ('ours', max_relative),
                ):
                    if backward and name == 'definition' and kept > DEFINITION_LIMIT:
                        continue
                    rows_of_kind.append(
                        dict(
                            part=f'graph step, {kind}',
                            size=size,
                            name=name + end,
                            base='definition' + end,
                        )
                    )
                    makes.append(
                        partial(
                            make_graph,
                            function=function,
                            shape=shape,
                            layout=layout,
                            backward=backward,
                        )
                    )
            yield from in_turns(rows_of_kind, makes, args.rounds, args)
