"""The Triton graph step beside the plain one: ``python triton_run.py interpret``, with
TRITON_INTERPRET=1, which Triton reads when it is imported; ``compile`` without."""

import itertools
import sys

from mobilevig_det import MobileViG
from mobilevig_det.ops import svga, svga_triton

import torch
import triton
import triton.language as tl

SIZES = (1, 1), (1, 7), (5, 4), (7, 12)
STRIDES = 1, 2, 3, 13
TYPES = torch.float32, torch.float16, torch.bfloat16, torch.float64
LAYOUTS = (
    lambda x: x,
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.mT.contiguous().mT,
    lambda x: torch.stack([x, -x], -1)[..., 0],
    lambda x: x[:, :, :1, :1].expand_as(x),
)


def compare(x, grad, stride):
    expected, at = svga._search(x, stride, True)
    for keep in (False, True):
        out, found = svga_triton._search(x, stride, keep)
        if x.dtype == torch.bfloat16:  # which the interpreter cuts, not rounds
            torch.testing.assert_close(out, expected, rtol=2**-7, atol=0)
        else:
            assert torch.equal(out, expected)
    assert torch.equal(found, at) and found.dtype == at.dtype
    assert out.stride() == expected.stride()
    given = svga_triton._spread(grad, at, stride)
    half = dict(rtol=2**-6, atol=2**-6) if x.dtype == torch.bfloat16 else {}
    torch.testing.assert_close(given, svga._spread(grad, at), **half)
    assert given.stride() == torch.empty_like(grad).stride()


def interpret():
    torch.manual_seed(0)
    layouts, types = itertools.cycle(LAYOUTS), itertools.cycle(TYPES)
    for (height, width), stride in itertools.product(SIZES, STRIDES):
        for levels in (None, 2):  # with ties
            shape = 1, 2, height, width
            x = torch.randn(shape) if levels is None else torch.randint(3, shape)
            dtype, layout = next(types), next(layouts)
            grad = layout(torch.randn(shape).to(dtype))
            compare(layout(x.to(dtype)), grad, stride)
        next(types)  # each with ties and without
    compare(torch.empty(0, 2, 5, 4), torch.empty(0, 2, 5, 4), 2)
    # More than one program a plane, and more pixels than int16 holds.
    large = torch.randint(-99, 99, (1, 1, 182, 181)).float()
    compare(large, torch.randn_like(large), 60)
    x = torch.zeros(1, 1, 5, 4)
    x[0, 0, 1, 1] = float('nan')
    expected = svga._search(x, 2, False)[0].isnan()
    assert torch.equal(svga_triton._search(x, 2, False)[0].isnan(), expected)
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: svga_triton._MaxRelative.apply(t, 2), x)
    # The backbone's key; on a CPU it takes the plain form.
    images, outs = torch.rand(1, 3, 64, 96), []
    for use in (False, True):
        torch.manual_seed(0)
        model = MobileViG('ti', triton=use).eval()
        outs.append(model(images)[-1])
    step = model.stages[3][0].grapher.graph_conv.graph_step
    assert step is svga_triton.max_relative and torch.equal(*outs)


def compiled(kernel, constants, **types):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: types.get(name, 'i32') for name in names}
    signature.update(dict.fromkeys(constants, 'constexpr'))
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['cubin']


def compile_all():
    """For an H100, which takes no GPU: what the interpreter lets pass fails here."""
    fixed = dict(stride=2, wide=tl.float32, block=svga_triton.BLOCK)
    folds = dict(rows='*i32', columns='*i32')
    search, spread = svga_triton._search_kernel, svga_triton._spread_kernel
    maps = dict(x='*fp16', out='*fp16', at='*i16')
    assert compiled(search, dict(fixed, keep=True), **maps, **folds)
    none = dict(fixed, keep=False, rows=None, columns=None, x_column=1, height=1)
    assert compiled(search, none, **maps)
    maps = dict(grad='*fp32', out='*fp32', at='*i32')
    assert compiled(spread, dict(fixed, grad_column=1), **maps)


if __name__ == '__main__':
    dict(interpret=interpret, compile=compile_all)[sys.argv[1]]()
