"""Backbone: folded for inference, recomputing, compiled; all the same."""

import copy
from functools import partial

from mobilevig_det import MobileViG
from mobilevig_det.backbones.layers import ConvNormAct
from mobilevig_det.errors import UserError

import pytest
import torch
from torch import nn

TINY = dict(channels=(8, 8, 12, 16), blocks=(1, 1, 1, 1))


def make(**kwargs):
    """A model all of whose parts count: trained statistics, layer scales."""
    torch.manual_seed(0)
    model = MobileViG(TINY, drop_path_rate=0.0, layer_scale_init_value=0.5, **kwargs)
    for value in model.state_dict().values():
        if value.is_floating_point() and value.dim() < 4:
            value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='GN', num_groups=2)])
def test_fused_outputs(norm_cfg):
    model, x = make(norm_cfg=norm_cfg).eval(), torch.rand(1, 3, 75, 98)
    with torch.no_grad():
        expected = model(x)
        fused = copy.deepcopy(model).fuse()
        outputs = [fused(x), fused.fuse()(x)]
    for outs in outputs:
        for out, want in zip(outs, expected):
            assert (out - want).abs().max() <= 1e-5 * want.abs().max()
            assert out.is_contiguous()
    left = [name for name in fused.state_dict() if 'conv' not in name]
    assert bool(left) == (norm_cfg['type'] == 'GN')


def test_fuse_and_training_exclude_each_other():
    model = make().train()
    before = list(model.state_dict())
    with pytest.raises(UserError, match='eval'):
        model.fuse()
    assert list(model.state_dict()) == before
    with pytest.raises(UserError, match='fused'):
        model.eval().fuse().train()


@pytest.mark.parametrize('with_cp, part', [(False, 0.8), (True, 0.4), ('act', 0.6)])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_recomputing_changes_nothing(with_cp, part, norm_eval):
    """Beside norms and activations that run as they are, nothing in one."""
    x = torch.rand(2, 3, 64, 96)
    saved, gradients, statistics = [], [], []
    for mode in (None, with_cp):
        model = make(with_cp=bool(mode) and mode, norm_eval=norm_eval).train()
        if mode is None:
            for module in model.modules():
                if isinstance(module, ConvNormAct):
                    module.forward = partial(nn.Sequential.forward, module)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.nbytes) or t, lambda t: t
        ):
            loss = sum(out.square().mean() for out in model(x))
        loss.backward()
        saved.append(sum(kept))
        gradients.append([p.grad for p in model.parameters()])
        statistics.append(list(model.buffers()))
    assert saved[1] < part * saved[0]
    for got, want in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(got, want)
    for got, want in zip(statistics[1], statistics[0]):
        assert torch.equal(got, want)


def test_unknown_with_cp():
    with pytest.raises(UserError, match="'act'"):
        MobileViG(TINY, with_cp='block')


@pytest.mark.parametrize('fused', [False, True])
def test_compiled(fused):
    model, x = make(), torch.rand(2, 3, 64, 96)
    compiled = make(compile_cfg=dict(backend='aot_eager', fullgraph=True))
    assert list(compiled.state_dict()) == list(model.state_dict())
    if fused:
        model.eval().fuse()
        compiled.eval().fuse()
    outs, expected = compiled(x), model(x)
    for out, want in zip(outs, expected):
        torch.testing.assert_close(out, want)
    if not fused:
        for outputs in (outs, expected):
            sum(out.square().mean() for out in outputs).backward()
        for got, want in zip(compiled.parameters(), model.parameters()):
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-4)


def test_fused_in_onnx_runtime(tmp_path):
    """The whole backbone, exported once, at sizes it was not exported at."""
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    model = make().eval()
    fused = copy.deepcopy(model).fuse()
    size = {
        2: torch.export.Dim('H', min=2, max=32) * 32,
        3: torch.export.Dim('W', min=2, max=32) * 32,
    }
    torch.onnx.export(
        fused,
        (torch.rand(1, 3, 96, 128),),
        tmp_path / 'backbone.onnx',
        dynamo=True,
        verbose=False,
        dynamic_shapes=(size,),
    )
    session = onnxruntime.InferenceSession(tmp_path / 'backbone.onnx')
    for shape in ((96, 128), (64, 416), (224, 224)):
        x = torch.rand(1, 3, *shape)
        outs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            expected = model(x)
        assert len(outs) == 4
        for out, want in zip(map(torch.from_numpy, outs), expected):
            assert (out - want).abs().max() <= 1e-5 * want.abs().max()
