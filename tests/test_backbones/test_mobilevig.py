"""The backbone against the authors' features, and its arguments."""

from mobilevig_det import MobileViG
from mobilevig_det.backbones import mobilevig
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from naive_graph_steps import naive_max_relative
from reference import ARCHS, golden_features, golden_input, golden_state_dict

TINY = dict(channels=(4, 6, 8, 10), blocks=(1, 2, 2, 2))


@pytest.fixture(scope='module', params=ARCHS)
def golden(request):
    """The arch's name, its model with the golden weights, the weights."""
    weights = golden_state_dict(request.param)
    model = MobileViG(request.param)
    model.load_state_dict(weights, strict=True)
    return request.param, model.eval(), weights


def logits(x, weights):
    """The classifier, from its definition; not part of the backbone."""
    x = x.mean((2, 3), keepdim=True)
    x = F.conv2d(x, weights['prediction.1.weight'], weights['prediction.1.bias'])
    x = F.batch_norm(
        x,
        *(
            weights[f'prediction.2.{name}']
            for name in ('running_mean', 'running_var', 'weight', 'bias')
        ),
    )
    x = F.gelu(x)
    heads = [
        F.conv2d(x, weights[f'{name}.weight'], weights[f'{name}.bias'])
        for name in ('head', 'dist_head')
    ]
    return (heads[0] + heads[1]) / 2


def test_features_equal_the_authors(golden):
    arch, model, weights = golden
    expected = golden_features()
    with torch.no_grad():
        small, large = (model(golden_input(*size)) for size in ((64, 96), (160, 160)))
    for i, feature in enumerate(small):
        want = expected[f'{arch}/64x96/stage{i}']
        assert feature.shape == want.shape
        error = np.abs(feature.numpy() - want).max() / np.abs(want).max()
        assert error < 1e-5
    for i, x in enumerate(large):
        want = expected[f'{arch}/160x160/stage{i}']
        np.testing.assert_allclose(
            [float(x.mean()), float(x.std()), float(x.abs().max())],
            want,
            rtol=1e-5,
            atol=1e-5 * want[1],
        )
    for size, features in (('64x96', small), ('160x160', large)):
        got = logits(features[-1], weights)
        want = expected[f'{arch}/{size}/logits_mean_std']
        np.testing.assert_allclose(
            [float(got.mean()), float(got.std())], want, rtol=1e-5, atol=1e-5 * want[1]
        )


@pytest.mark.parametrize(
    'arch, millions', [('ti', 4.11), ('s', 6.12), ('m', 12.23), ('b', 24.97)]
)
def test_parameters(arch, millions):
    parameters = sum(p.numel() for p in MobileViG(arch).parameters())
    assert round(parameters / 1e6, 2) == millions


@pytest.mark.parametrize('size', [(32, 32), (33, 65), (47, 200), (64, 161), (127, 32)])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_any_size(size, stride, monkeypatch):
    model = MobileViG(TINY, graph_stride=stride).double().eval()
    x = torch.rand(2, 3, *size, dtype=torch.double)
    features = model(x)
    for i, feature in enumerate(features):
        strided = [-(-side // 2 ** (i + 2)) for side in size]
        assert feature.shape == (2, TINY['channels'][i], *strided)
    monkeypatch.setattr(mobilevig, 'max_relative', naive_max_relative)
    for feature, want in zip(features, model(x)):
        torch.testing.assert_close(feature, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('indices', [(0,), (3,), (1, 3), (0, 1, 2, 3)])
def test_out_indices(indices):
    torch.manual_seed(0)
    every = MobileViG(TINY).eval()
    some = MobileViG(TINY, out_indices=indices).eval()
    some.load_state_dict(every.state_dict())
    x = torch.rand(1, 3, 40, 56)
    outs, want = some(x), every(x)
    assert isinstance(outs, tuple) and len(outs) == len(indices)
    for out, i in zip(outs, indices):
        assert torch.equal(out, want[i])
    assert MobileViG.out_channels(TINY, indices) == [o.shape[1] for o in outs]
    # DDP asks that what can be trained is, and all that is used can be.
    sum(out.sum() for out in some.train()(x)).backward()
    for name, parameter in some.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    if 3 in indices:
        assert all(p.requires_grad for p in some.parameters())


def test_out_channels_of_the_archs():
    assert MobileViG.out_channels('M') == [42, 84, 224, 400]
    assert MobileViG.out_channels('b', (1, 3)) == [84, 464]


def test_drop_path_rates():
    model = MobileViG(TINY, drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for stage in model.stages[:3] for block in stage]
    for block in model.stages[3]:
        assert block.grapher.drop_path.drop_prob == block.ffn.drop_path.drop_prob
        rates.append(block.ffn.drop_path.drop_prob)
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 7), atol=1e-7)


def test_drop_path_drops_whole_branches_when_training():
    torch.manual_seed(0)
    model = MobileViG(TINY, drop_path_rate=0.5, layer_scale_init_value=1.0)
    block = model.stages[2][1].train()
    rate = block.drop_path.drop_prob
    assert rate > 0
    x = torch.rand(256, 8, 3, 5)
    branch = block(x) - x
    dropped = (branch == 0).flatten(1).all(1)
    assert 0 < dropped.sum() < 256
    assert not (branch[~dropped] == 0).flatten(1).any(1).all()
    # What is kept is scaled so that the mean stays.
    block.drop_path.drop_prob = 0.0
    torch.testing.assert_close(
        branch[~dropped] * (1 - rate), (block(x) - x)[~dropped], rtol=1e-4, atol=1e-5
    )


def test_initial_weights():
    torch.manual_seed(0)
    model = MobileViG('ti', layer_scale_init_value=1e-3)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert not module.bias.any()
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 5000:
                std = float(module.weight.detach().std()) * (fan_in / 2) ** 0.5
                assert abs(std - 1) < 0.05
    scales = [p for name, p in model.named_parameters() if name.endswith('layer_scale')]
    assert len(scales) == 10
    assert all((p == 1e-3).all() for p in scales)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages(frozen_stages):
    model = MobileViG(TINY, frozen_stages=frozen_stages)
    frozen = {'stem.': 0}
    for i in range(4):
        frozen[f'stages.{i}.'] = i + 1
    for i in range(3):
        frozen[f'downsamples.{i}.'] = i + 2  # leads into stage i + 1
    for mode in (model.train(), model.eval().train()):
        for name, parameter in mode.named_parameters():
            first = next(n for p, n in frozen.items() if name.startswith(p))
            assert parameter.requires_grad == (first > frozen_stages), name
        for name, module in mode.named_modules():
            if isinstance(module, _BatchNorm):
                first = next(n for p, n in frozen.items() if name.startswith(p))
                assert module.training == (first > frozen_stages), name


@pytest.mark.parametrize('norm_eval', [True, False])
def test_norm_eval(norm_eval):
    model = MobileViG(TINY, norm_eval=norm_eval).train()
    before = {
        k: v.clone() for k, v in model.state_dict().items() if 'running_mean' in k
    }
    model(torch.rand(2, 3, 64, 64))
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) == norm_eval for k, v in before.items())
    assert model.stages[0].training


def test_with_cp_gives_the_same_gradients_and_statistics():
    x = torch.rand(2, 3, 64, 96, dtype=torch.double)
    plain = MobileViG(TINY, drop_path_rate=0.0).double().train()
    saving = MobileViG(TINY, drop_path_rate=0.0, with_cp=True).double().train()
    saving.load_state_dict(plain.state_dict())
    kept = []
    for model in (plain, saving):
        kept.append([])
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept[-1].append(t.numel()) or t, lambda t: t
        ):
            loss = sum(out.square().mean() for out in model(x))
        loss.backward()
    assert sum(kept[1]) < sum(kept[0]) / 2
    for (name, want), got in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(got.grad, want.grad, msg=name)
        assert got.grad is not None


@pytest.mark.parametrize(
    'kwargs, said',
    [
        (dict(arch='xl'), ["'xl'", "'ti', 's', 'm', 'b'"]),
        (
            dict(arch=dict(channels=(4, 6, 8, 10), blocks=(1, 2, 2))),
            ["arch['blocks'] must be 4 integers", '(1, 2, 2)'],
        ),
        (dict(arch=dict(channels=(4, 6, 8, 10))), ["'channels' and 'blocks'"]),
        (
            dict(arch=dict(channels=(4, 6, 8, -1), blocks=(1, 1, 1, 1))),
            ["arch['channels'] must be 4 integers from 1", '-1'],
        ),
        (dict(out_indices=(0, 4)), ['(0, 4)', 'ascending subset']),
        (dict(out_indices=(2, 1)), ['(2, 1)', 'ascending subset']),
        (dict(out_indices=(-1,)), ['(-1,)', 'ascending subset']),
        (dict(out_indices=()), ['ascending subset']),
        (dict(graph_stride=0), ['graph_stride', 'at least 1']),
        (dict(drop_path_rate=1.0), ['drop_path_rate', '[0, 1)']),
        (dict(frozen_stages=5), ['frozen_stages', '-1']),
    ],
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(UserError) as error:
        MobileViG(**kwargs)
    for words in said:
        assert words in str(error.value)


def test_images_too_small():
    model = MobileViG(TINY).eval()
    with pytest.raises(UserError, match=r'32 x 32 pixels, but got 31 x 64'):
        model(torch.rand(1, 3, 31, 64))


def test_triton_is_deprecated_and_takes_the_default_step():
    torch.manual_seed(0)
    plain = MobileViG(TINY).eval()
    with pytest.warns(DeprecationWarning, match='triton=True .* removed in 0.4'):
        deprecated = MobileViG(TINY, triton=True).eval()
    deprecated.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for out, want in zip(deprecated(x), plain(x), strict=True):
        assert torch.equal(out, want)
