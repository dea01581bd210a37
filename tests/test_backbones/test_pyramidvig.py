"""Pyramid ViG: the authors' features, and the rules off their image size."""

import copy

from mobilevig_det import MobileViG, PyramidViG
from mobilevig_det.errors import UserError
from mobilevig_det.export.backbone import export_program

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyramidvig import golden, golden_state_dict
from siblings import golden_input

PARAMETERS = dict(ti=9293088, s=25568480, m=47711328, b=90903680)
TINY = dict(channels=(4, 8, 8, 12), blocks=(1, 2, 3, 1))
SIZES = ['ti', 's', *(pytest.param(n, marks=pytest.mark.slow) for n in ('m', 'b'))]


def loaded(size, dtype):
    model = PyramidViG(size).to(dtype).eval()
    model.load_state_dict(golden_state_dict(size), strict=True)
    return model


def logits(x, weights):
    """Compute the authors' classifier, of their ImageNet weights."""
    w = {
        key.removeprefix('prediction.'): value.to(x.dtype)
        for key, value in weights.items()
        if key.startswith('prediction.')
    }
    x = F.conv2d(x.mean((2, 3), keepdim=True), w['0.weight'], w['0.bias'])
    statistics = w['1.running_mean'], w['1.running_var']
    x = F.batch_norm(x, *statistics, w['1.weight'], w['1.bias'])
    return F.conv2d(F.gelu(x), w['4.weight'], w['4.bias']).flatten(1)


def assert_features(features, key, tolerance, weights=None):
    expected = golden()
    for i, x in enumerate(features):
        assert list(x.shape) == expected[f'{key}/stage{i}_shape'].tolist()
        flat, stat = x.detach().flatten().double(), expected[f'{key}/stage{i}_stat']
        sample = flat[:: max(1, flat.numel() // 256)]
        found = torch.stack([flat.mean(), flat.std(correction=0), flat.abs().max()])
        for a, b in ((sample, expected[f'{key}/stage{i}_sample']), (found, stat)):
            error = np.abs(a.numpy() - b).max()
            assert error <= tolerance * stat[2], (key, i, error / stat[2])
    if f'{key}/logits' in expected and weights:
        want = expected[f'{key}/logits']
        error = np.abs(logits(x.detach(), weights)[:, ::16].numpy() - want).max()
        assert error <= tolerance * np.abs(want).max()


@pytest.mark.parametrize('size', SIZES)
def test_features_equal_the_authors(size):
    """In float64: in float32 another neighbour may be the nearest."""
    model, weights = loaded(size, torch.double), golden_state_dict(size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]
    with torch.no_grad():
        for height, width in ((224, 224), (256, 320)):
            features = model(golden_input(1, height, width).double())
            key = f'vig/{size}/{height}x{width}'
            assert_features(features, key, 1e-6, weights)


@pytest.mark.parametrize(
    'size, seed, stages',
    [
        ('ti', 1, 4),
        ('s', 7, 4),
        pytest.param('m', 7, 1, marks=pytest.mark.slow),
        pytest.param('b', 7, 1, marks=pytest.mark.slow),
    ],
)
def test_features_in_float32(size, seed, stages):
    """On inputs that no rounding gives another neighbour, or up to the first one."""
    with torch.no_grad():
        features = loaded(size, torch.float)(golden_input(1, 224, 224, seed))
    key = f'vig/{size}/224x224' + '/s1' * (seed == 1)
    assert_features(features[:stages], key, 1e-5)


@pytest.mark.parametrize(
    'size, shape',
    [
        ('ti', (64, 96)),
        ('ti', (32, 32)),
        ('ti', (200, 168)),
        pytest.param('m', (64, 96), marks=pytest.mark.slow),
    ],
)
def test_sizes_that_the_authors_code_refuses(size, shape):
    """Fewer nodes than neighbours, and sides that the pooling doesn't divide."""
    with torch.no_grad():
        features = loaded(size, torch.double)(golden_input(1, *shape).double())
    assert_features(features, f'vigrule/{size}/{shape[0]}x{shape[1]}', 1e-6)


def make(**kwargs):
    """A tiny model with trained statistics and positions."""
    torch.manual_seed(0)
    model = PyramidViG(TINY, **kwargs)
    model.init_weights()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and (value.dim() < 4 or 'pos_embed' in name):
            value.uniform_(0.5, 1.5)
    return model.double()


def images(*size, batch=1):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, *size, generator=generator, dtype=torch.double)


@pytest.mark.parametrize('size', ['ti', 's', 'm', 'b'])
def test_dilation_and_drop_path_follow_the_blocks_number(size):
    with torch.device('meta'):
        model = PyramidViG(size, drop_path_rate=0.2)
    blocks = [block for stage in model.stages for block in stage]
    assert [b.grapher.graph_conv.dilation for b in blocks] == [
        min(n // 4 + 1, 5) for n in range(len(blocks))
    ]
    rates = np.linspace(0, 0.2, len(blocks))
    for part in ('grapher', 'ffn'):
        found = [getattr(b, part).drop_path.drop_prob for b in blocks]
        np.testing.assert_allclose(found, rates, atol=1e-8)
    assert [b.grapher.graph_conv.stage for b in blocks] == [
        stage for stage, blocks in enumerate(model.stages) for _ in blocks
    ]


def test_initial_weights():
    torch.manual_seed(0)
    model = PyramidViG('ti')
    model.init_weights()
    assert PyramidViG.out_channels('ti', (1, 3)) == [96, 384]
    for name, parameter in model.named_parameters():
        if name.endswith(('bias', 'pos_embed')):
            assert not parameter.any(), name
        elif parameter.numel() > 5000:
            std = float(parameter.detach().std()) * (parameter[0].numel() / 2) ** 0.5
            assert abs(std - 1) < 0.05, name
        elif name.endswith('norm.weight'):
            assert (parameter == 1).all()


def test_fused_outputs():
    model, x = make().eval(), images(72, 100)
    with torch.no_grad():
        fused = copy.deepcopy(model).fuse()
        for out, want in zip(fused(x), model(x)):
            torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
    assert not any('norm' in name for name in fused.state_dict())


@pytest.mark.parametrize('with_cp', [True, 'act'])
def test_recomputing_changes_nothing(with_cp):
    gradients = []
    for mode in (False, with_cp):
        model = make(with_cp=mode, drop_path_rate=0.0).train()
        sum(out.square().mean() for out in model(images(64, 96, batch=2))).backward()
        gradients.append([p.grad for p in model.parameters()])
    for found, want in zip(*gradients):
        assert found.isfinite().all()
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages_and_out_indices(frozen_stages):
    model = make(frozen_stages=frozen_stages, norm_eval=True, out_indices=(0, 2))
    first = {'stem': 0, 'downsamples.0': 2, 'downsamples.1': 3}
    first |= {f'stages.{i}': i + 1 for i in range(3)}
    outs = model.train()(images(64, 96, batch=2))
    assert [out.shape[1] for out in outs] == [4, 8]
    if frozen_stages < 3:
        sum(out.sum() for out in outs).backward()
        for name, parameter in model.named_parameters():
            number = next((n for p, n in first.items() if name.startswith(p)), -9)
            assert (parameter.grad is not None) == (number > frozen_stages), name


@pytest.mark.parametrize(
    'kwargs, said',
    [
        (dict(arch='xl'), "'ti', 's', 'm', 'b'"),
        (dict(arch=dict(TINY, channels=(4, 8, 10, 12))), 'multiples of 4'),
        (dict(arch=dict(TINY, graph_blocks=(1, 1, 1, 1))), 'exactly'),
        (dict(arch='ti', graph_strides=(2,)), 'graph_strides must be None'),
        (dict(arch='ti', frozen_stages=5), 'frozen_stages'),
    ],
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(UserError, match=said):
        PyramidViG(**kwargs)
    with pytest.raises(UserError, match='at least 32 x 32'):
        make()(images(31, 64))


@pytest.mark.slow
def test_exported_files_equal_the_model(tmp_path):
    """As torch.export and ONNX record it, without operators of this package."""
    onnxruntime = pytest.importorskip('onnxruntime')
    torch.manual_seed(0)
    model = PyramidViG(dict(TINY, blocks=(1, 1, 1, 1))).eval().fuse()
    x, path = images(64, 96).float(), tmp_path / 'model.onnx'
    program = export_program(model, (64, 96))
    torch.onnx.export(program, (x,), path, dynamo=True, optimize=False, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (name,) = (value.name for value in session.get_inputs())
    with torch.no_grad():
        expected = model(x)
        for found in (program.module()(x), session.run(None, {name: x.numpy()})):
            for out, want in zip(found, expected):
                error = np.abs(np.asarray(out) - want.numpy()).max()
                assert error <= 1e-5 * want.abs().max()


def test_under_autocast():
    model = make().float().train()
    with torch.autocast('cpu', torch.bfloat16):
        outs = model(images(64, 96, batch=2).float())
    assert all(out.dtype == torch.bfloat16 for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.stem.pos_embed.grad.any()


def test_misfits_are_diagnosed():
    with torch.device('meta'):
        weights = PyramidViG('ti').state_dict()
        small = PyramidViG('s')
    with pytest.raises(UserError, match="it is a PyramidViG-Ti: .*arch='ti'"):
        MobileViG('ti').load_state_dict(weights)
    with pytest.raises(UserError, match="it has arch='ti'"):
        small.load_state_dict(weights)
