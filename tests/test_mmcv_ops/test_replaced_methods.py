"""mmcv's layers with the methods that replace its own where it has no extension."""

import copy
import subprocess
import sys
from pathlib import Path

from mobilevig_det.mmcv_ops import mmcv_ext, mmcv_stand_in
from mobilevig_det.mmcv_ops.mmcv_ext import REPLACEMENTS

import pytest
import torch
from mmcv_layers import replaced_methods
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn
from torch.autograd import gradcheck

JOB = Path(__file__).parents[1] / 'helpers' / 'sync_batch_norm_job.py'


def test_every_replacement_is_listed():
    listed = [n for names in mmcv_stand_in.REPLACED_METHODS.values() for n in names]
    assert sorted(listed) == sorted(REPLACEMENTS)


# --- RoIAlign ----------------------------------------------------------------


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_works_without_torchvision(aligned, monkeypatch):
    monkeypatch.setattr(mmcv_ext, 'torchvision_ops', lambda: None)
    x = torch.randn(1, 20, 9, 9, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 2, 13, 15], [0, 0, 0, 4, 4]])
    with replaced_methods('roi_align') as module:
        monkeypatch.setattr(module, 'ext_module', mmcv_ext)
        settings = dict(output_size=3, spatial_scale=0.5, aligned=aligned)
        # torchvision has the average only.
        layer = module.RoIAlign(**settings, pool_mode='max', use_torchvision=True)
        out = layer(x, rois)
        assert torch.equal(out, module.RoIAlign(**settings)(x, rois))
    out.sum().backward()
    assert x.grad.any()


def test_roi_align_uses_torchvision_where_it_is(monkeypatch):
    monkeypatch.setattr(mmcv_ext, 'torchvision_ops', lambda: 'there')
    monkeypatch.setitem(sys.modules, 'torchvision.ops', None)
    with replaced_methods('roi_align') as module:
        layer = module.RoIAlign(2, use_torchvision=True)
        with pytest.raises(ImportError, match='torchvision'):
            layer(torch.zeros(1, 1, 4, 4), torch.zeros(0, 5))


# --- SyncBatchNorm in one process --------------------------------------------


@pytest.fixture
def sync_bn():
    with replaced_methods('sync_bn') as module:
        yield module.SyncBatchNorm


def twins(sync_bn, dtype=torch.float32, **kwargs):
    """mmcv's layer and PyTorch's BatchNorm with the same parameters."""
    layer = MODELS.build(dict(type='MMSyncBN', num_features=4, **kwargs)).to(dtype)
    assert isinstance(layer, sync_bn)
    other = nn.BatchNorm2d(4, **kwargs).to(dtype)
    other.load_state_dict(copy.deepcopy(layer.state_dict()), strict=True)
    return layer, other


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(eps=0.1, momentum=0.3),
        dict(momentum=None),
        dict(affine=False),
        dict(track_running_stats=False),
    ],
    ids=str,
)
def test_in_one_process_it_is_batch_norm(kwargs, dtype, sync_bn):
    torch.manual_seed(0)
    layers = twins(sync_bn, dtype, **kwargs)
    for _ in range(2):
        x = torch.randn(3, 4, 5, 2).to(dtype)
        outs = [layer(x) for layer in layers]
        assert torch.equal(*outs)
    for key, value in layers[0].state_dict().items():
        assert torch.equal(value, layers[1].state_dict()[key]), key
    assert torch.equal(*(layer.eval()(x) for layer in layers))
    assert repr(layers[0]).endswith('group_size=1,stats_mode=default)')


def test_layer_starts_as_mmcvs_and_can_be_reverted_and_copied(sync_bn):
    torch.manual_seed(0)
    layer = sync_bn(100)
    assert 0 < layer.weight.min() < 0.2 and layer.weight.max() <= 1
    assert not layer.bias.any() and layer.group_size == 1
    assert isinstance(copy.deepcopy(layer), sync_bn)
    reverted = revert_sync_batchnorm(nn.Sequential(layer))[0]
    assert isinstance(reverted, nn.modules.batchnorm._BatchNorm)
    with pytest.raises(ValueError, match='at least 2D'):
        layer(torch.zeros(100))
    with pytest.raises(ValueError, match="'default' or 'N'"):
        sync_bn(3, stats_mode='n')


def test_single_values_and_empty_batches(sync_bn):
    """Of one value mmcv's layer gives the bias, where BatchNorm refuses it."""
    layer = sync_bn(4)
    layer.bias.data.fill_(3)
    for shape in ((1, 4, 1, 1), (1, 4)):
        assert (layer(torch.randn(shape)) == 3).all()
    state = copy.deepcopy(layer.state_dict())
    x = torch.zeros(0, 4, 2, 2, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    out.sum().backward()
    for name in ('running_mean', 'running_var'):
        assert torch.equal(state[name], layer.state_dict()[name])


def test_half_input_and_autocast_keep_float32_statistics(sync_bn):
    torch.manual_seed(0)
    layer = sync_bn(4)
    x = torch.randn(3, 4, 5, 5)
    expected = copy.deepcopy(layer)(x)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast('cpu', torch.bfloat16):
            out = layer(x.to(dtype))
        assert out.dtype == dtype and layer.running_mean.dtype == torch.float32
        torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)


# --- SyncBatchNorm in two processes ------------------------------------------


def test_gradcheck_of_the_average_over_processes(monkeypatch):
    """Two processes with the same batch are one with the batch twice."""
    from mobilevig_det.mmcv_ops import sync_batch_norm as module

    torch.manual_seed(0)
    tensors = [torch.randn(s, dtype=torch.float64) for s in ((3, 2, 4), (2,), (2,))]

    def function(x, weight, bias):
        return module._average_over_processes(
            x, None, None, weight, bias, 0.1, 1e-5, None, 1, False
        )

    for t in tensors:
        t.requires_grad_()
    expected = nn.functional.batch_norm(
        tensors[0], None, None, *tensors[1:], True, 0.1, 1e-5
    )
    torch.testing.assert_close(function(*tensors), expected)
    assert gradcheck(function, tensors)


def test_two_processes_normalize_as_one_with_the_whole_batch(tmp_path):
    torch.manual_seed(0)

    def case(sizes, mode, dtype=torch.float64):
        x = [torch.randn(n, 3, 4, 2, dtype=torch.float64).to(dtype) for n in sizes]
        weight, bias = torch.randn(2, 3, dtype=torch.float64)
        return dict(
            x=x,
            grad=[torch.randn_like(part) for part in x],
            weight=weight.to(torch.float32 if dtype.itemsize < 4 else dtype),
            bias=bias.to(torch.float32 if dtype.itemsize < 4 else dtype),
            mode=mode,
        )

    cases = [
        case((2, 2), 'default'),
        case((2, 2), 'N', torch.float32),
        case((1, 3), 'N'),
        case((0, 2), 'N'),
        case((2, 0), 'default'),
        case((2, 2), 'default', torch.bfloat16),
    ]
    torch.save(cases, tmp_path / 'inputs.pt')
    subprocess.run([sys.executable, JOB, tmp_path], check=True, timeout=300)
    found = [torch.load(tmp_path / f'{i}.pt', weights_only=True) for i in range(2)]
    for case, *parts in zip(cases, *found, strict=True):
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(
            case['x'][0].dtype, 0.05
        )
        layer = nn.BatchNorm2d(3).double()
        layer.weight.data, layer.bias.data = (
            case['weight'].double(),
            case['bias'].double(),
        )
        x = torch.cat(case['x']).double().requires_grad_()
        out = layer(x)
        out.backward(torch.cat(case['grad']).double())

        def check(actual, expected):
            torch.testing.assert_close(
                actual.double(), expected.double(), rtol=tolerance, atol=tolerance
            )

        assert [part['group_size'] for part in parts] == [2, 2]
        check(torch.cat([part['out'] for part in parts]), out)
        check(torch.cat([part['x'] for part in parts]), x.grad)
        for name in ('weight', 'bias'):
            check(sum(part[name] for part in parts), getattr(layer, name).grad)
        for part in parts:
            check(part['mean'], layer.running_mean)
            check(part['var'], layer.running_var)
