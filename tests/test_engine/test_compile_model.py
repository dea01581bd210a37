"""A compiled backbone and neck: one graph each, and the same outputs."""

import copy
import shutil
from types import SimpleNamespace

from mobilevig_det import MobileViG
from mobilevig_det.engine import CompileHook
from mobilevig_det.errors import UserError

import pytest
import torch
from mmdet.models import FPN
from torch import nn
from torch._dynamo.testing import CompileCounter

ARCH = dict(channels=(8, 8, 12, 16), blocks=(1, 1, 1, 1))
SIZES = (64, 96), (96, 64), (75, 98), (160, 128)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MobileViG(ARCH, drop_path_rate=0, layer_scale_init_value=0.5)
        self.neck = FPN([8, 8, 12, 16], 16, 5)

    def forward(self, x):
        return self.neck(self.backbone(x))


def compiled(model, **options):
    model = copy.deepcopy(model)
    CompileHook(**options).before_run(SimpleNamespace(model=model))
    return model


def gradients(model, x):
    model.zero_grad()
    sum(out.square().mean() for out in model(x)).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(model, other, sizes, **tolerance):
    assert list(model.state_dict()) == list(other.state_dict())
    for size in sizes:
        x = torch.rand(2, 3, *size)
        for got, want in zip(gradients(other.train(), x), gradients(model.train(), x)):
            torch.testing.assert_close(got, want, **tolerance)
        with torch.no_grad():
            for got, want in zip(other.eval()(x), model.eval()(x)):
                torch.testing.assert_close(got, want, **tolerance)


@pytest.mark.parametrize('training', [True, False])
def test_no_graph_breaks(training):
    model, x = Parts().train(training), torch.rand(2, 3, 64, 96)
    found = torch._dynamo.explain(model.backbone)(x)
    assert (found.graph_count, found.graph_break_count) == (1, 0)
    found = torch._dynamo.explain(model.neck)(model.backbone(x))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize('part, graphs', [('backbone', 2), ('neck', 4)])
def test_dynamic_graphs_serve_all_sizes(part, graphs):
    """One graph for training and one for evaluation; the neck has two each."""
    torch._dynamo.reset()
    model, counter = Parts(), CompileCounter()
    other = compiled(model, parts=part, backend=counter, dynamic=True)
    for sizes in (SIZES, [(96, 128), (224, 64)]):
        assert_same(model, other, sizes, rtol=1e-4, atol=1e-4)
        assert counter.frame_count == graphs


@pytest.mark.slow
def test_static_graphs_are_one_for_each_size():
    """``mode='reduce-overhead'`` captures these."""
    torch._dynamo.reset()
    model, counter = Parts(), CompileCounter()
    other = compiled(model, parts='backbone', backend=counter, dynamic=False)
    assert_same(model, other, SIZES[:2] * 2, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs g++')
def test_inductor_gives_the_same_outputs():
    torch._dynamo.reset()
    model = Parts()
    other = compiled(model, parts='backbone')
    # A bias before a norm has a gradient of rounding alone.
    assert_same(model, other, SIZES[:1], rtol=1e-3, atol=1e-3)


def test_unknown_part_is_an_error():
    with pytest.raises(UserError, match="no part 'nek'; it has backbone, neck"):
        compiled(Parts(), parts=('backbone', 'nek'))


@pytest.mark.parametrize('with_cp', [True, 'act'])
def test_compiling_recomputed_stages_is_an_error(with_cp):
    with pytest.raises(UserError, match='one of them'):
        MobileViG(ARCH, with_cp=with_cp, compile_cfg=dict(fullgraph=True))
