"""The CPU fast paths of a model, compared with the model as it was."""

import copy
import warnings

from mobilevig_det.ops import cpu_fast_paths, sparse_gradient
from mobilevig_det.ops.cpu_fast_paths import (
    ChannelsLastConv2d,
    WinogradConv2d,
    apply_cpu_fast_paths,
    cpu_fast_paths_enabled,
    rpn_layers,
)

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from mmdet.models import RPNHead
from mmengine.config import Config
from torch import nn


class Net(nn.Module):
    def __init__(self, n=96):
        super().__init__()
        self.a = nn.Conv2d(n, n, 3, padding=1)
        self.others = nn.ModuleList(
            [
                nn.Conv2d(n, n, 1),
                nn.Conv2d(n, n, 3),
                nn.Conv2d(n, n, 3, 2, 1),
                nn.Conv2d(n, n, 3, padding=2, dilation=2),
                nn.Conv2d(n, n, 3, padding=1, groups=n),
                nn.Conv2d(n, n, 3, padding=1, padding_mode='reflect'),
                nn.Conv2d(n, 8, 3, padding=1),
            ]
        )

    def forward(self, x):
        return self.a(x)


def test_only_plain_convolutions_change_and_only_once():
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert apply_cpu_fast_paths(model) == 1 and apply_cpu_fast_paths(model) == 0
    assert type(model.a) is WinogradConv2d
    for other in model.others:
        assert type(other) is (ChannelsLastConv2d if other.groups == 1 else nn.Conv2d)
    other = nn.Conv2d(8, 8, 1)
    assert apply_cpu_fast_paths(other) == 0 and type(other) is nn.Conv2d
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert type(copy.deepcopy(model).a) is WinogradConv2d


def test_base_class_for_small_maps_half_precision_and_exporters(monkeypatch):
    def refuse(*args):
        raise AssertionError

    model, plain = Net().eval(), Net().eval()
    plain.load_state_dict(model.state_dict())
    apply_cpu_fast_paths(model)
    x = torch.randn(1, 96, 32, 32)
    assert (model(x) - plain(x)).abs().max() < 1e-5
    monkeypatch.setattr(cpu_fast_paths, 'winograd_conv3x3', refuse)
    with pytest.raises(AssertionError):
        model(x)
    assert torch.equal(model(x[..., :8, :8]), plain(x[..., :8, :8]))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model(x), plain(x))
    traced = torch.jit.trace(model, x, check_trace=False)
    assert torch.equal(traced(x), plain(x))
    exported = torch.export.export(model, (x,)).module()
    assert torch.equal(exported(x), plain(x))
    assert torch.equal(model.double()(x.double()), plain.double()(x.double()))


@pytest.mark.parametrize('share', [0, 0.02, 0.1, 0.5, 1])
@pytest.mark.parametrize('piece', [3, 2048])
def test_rpn_step_matches_separate_layers_in_float64(share, piece, monkeypatch):
    """At any share of pixels with a gradient."""
    monkeypatch.setattr(sparse_gradient, 'PIECE', piece)
    torch.manual_seed(0)
    shapes = (
        (2, 4, 17, 13),
        (6, 4, 3, 3),
        (6,),
        (3, 6, 1, 1),
        (3,),
        (12, 6, 1, 1),
        (12,),
    )
    inputs = [torch.randn(s, requires_grad=True) for s in shapes]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    outs = rpn_layers(*inputs)
    hidden = F.conv2d(*exact[:3], padding=1).relu()
    wanted = F.conv2d(hidden, *exact[3:5]), F.conv2d(hidden, *exact[5:])
    mask = torch.rand(2, 1, 17, 13) < share
    grads = [torch.randn_like(o) * mask for o in outs]
    found = torch.autograd.grad(outs, inputs, grads)
    exact_found = torch.autograd.grad(wanted, exact, [g.double() for g in grads])
    for a, b in zip((*outs, *found), (*wanted, *exact_found)):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 2e-5 * max(b.abs().max(), 1)


class RPNAndRoIAlign(nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn = RPNHead(
            96,
            feat_channels=96,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[8], ratios=[0.5, 1, 2], strides=[4]
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        )
        self.roi = RoIAlign(7, 1.0, 0)

    def forward(self, x, rois):
        return *self.rpn.forward_single(x), self.roi(x, rois)


@pytest.mark.parametrize('hooked', [False, True])
def test_rpn_head_and_roi_align_match_their_base_classes(hooked):
    torch.manual_seed(0)
    fast, plain = RPNAndRoIAlign(), RPNAndRoIAlign()
    plain.load_state_dict(fast.state_dict())
    assert apply_cpu_fast_paths(fast) == 1
    seen = []
    if hooked:
        fast.rpn.rpn_cls.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 96, 30, 37).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0, 1, 2, 30, 9], [1, 5, 1, 9, 28], [1, 3, 3, 8, 9.0]])
    results = []
    for model in (fast, plain):
        maps = x.clone().requires_grad_()
        outs = model(maps, rois)
        sum((o * o).sum() for o in outs).backward()
        results.append([*outs, maps.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*results):
        assert (a - b).abs().max() <= 1e-4 * max(b.abs().max(), 1)
    assert bool(seen) == hooked


@pytest.mark.parametrize(
    'cfg, enabled',
    [
        ({}, True),
        (dict(cpu_fast_paths=True), True),
        (dict(cpu_fast_paths=False), False),
        (dict(default_hooks=dict(winograd=dict(type='CpuFastPathsHook'))), True),
    ],
)
def test_switch(cfg, enabled):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert cpu_fast_paths_enabled(Config(cfg)) is enabled


@pytest.mark.parametrize('hook', [None, dict(type='WinogradHook', enabled=False)])
def test_switch_of_0_2_is_deprecated(hook):
    cfg = Config(dict(cpu_fast_paths=True, default_hooks=dict(winograd=hook)))
    with pytest.warns(DeprecationWarning, match='cpu_fast_paths = False'):
        assert not cpu_fast_paths_enabled(cfg)
