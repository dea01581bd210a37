"""MobileViG's siblings: the authors' features and names, and what all have alike."""

import copy

import mobilevig_det
from mobilevig_det.backbones import adaptvig, greedyvig, mobilevigv2
from mobilevig_det.backbones.layers import GraphBlock, PositionEncoding
from mobilevig_det.checkpoints.key_mapping import convert, from_authors, to_authors
from mobilevig_det.errors import UserError
from mobilevig_det.ops.agc import naive_gated_max
from mobilevig_det.ops.dagc import naive_thresholded_max
from mobilevig_det.ops.mgc import naive_cross_max

import numpy as np
import pytest
import torch
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from siblings import (
    ALL,
    CLASSES,
    SIZES,
    SMALLEST,
    authors_shapes,
    golden,
    golden_input,
    golden_state_dict,
)
from test_mobilevig import logits

TINY = dict(channels=(4, 6, 8, 12), blocks=(1, 2, 1, 1), graph_blocks=(1, 0, 2, 1))
PARAMETERS = dict(
    mobilevigv2=(4537216, 6609024, 14247360, 25945344),
    greedyvig=(10148160, 20043744, 28971776),
    rapidnet=(5485616, 8070864, 16113120, 28696704),
    adaptvig=(6948873, 16276748, 25152015),
)
KEYS = dict(
    mobilevigv2=(533, 782, 782, 782),
    greedyvig=(611, 899, 1126),
    rapidnet=(507, 743, 743, 743),
    adaptvig=(929, 1227, 1525),
)
FAMILIES = list(CLASSES)
SMALL = {
    name: getattr(mobilevig_det, name)('s') for name in ('MobileViG', *CLASSES.values())
}
CLASSIFIER = ('prediction.', 'head.', 'dist_head.')


def backbone(family):
    return getattr(mobilevig_det, CLASSES[family])


def make(family, **kwargs):
    """A model all of whose parts count: trained statistics, layer scales."""
    torch.manual_seed(0)
    kwargs = dict(dict(drop_path_rate=0.0), **kwargs)
    model = backbone(family)(TINY, **kwargs)
    for name, value in model.state_dict().items():
        if name.endswith('temperature'):
            value.fill_(3.0)
        elif value.is_floating_point() and value.dim() < 4:
            value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    'family, size',
    [
        pytest.param(*which, marks=[] if which in SMALLEST else [pytest.mark.slow])
        for which in ALL
    ],
)
def test_features_equal_the_authors(family, size):
    weights, expected = golden_state_dict(family, size), golden()
    model = backbone(family)(size).eval()
    model.load_state_dict(weights, strict=True)
    place = SIZES[family].index(size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[family][place]
    assert len(model.state_dict()) == KEYS[family][place]
    assert backbone(family).out_channels(size) == [
        shape[0]
        for key, shape in authors_shapes(family, size).items()
        if key
        in ('stem.stem.3.weight', *(f'backbone.{i}.0.conv.0.weight' for i in '123'))
    ]

    def assert_equal(found, want, largest):
        error = np.abs(np.asarray(found) - want).max()
        assert error <= 1e-5 * largest

    for name, images in (
        ('160x160', golden_input(1, 160, 160)),
        ('2x64x96/s42', golden_input(2, 64, 96, 42)),
        ('64x96', golden_input(1, 64, 96)),
    ):
        key = f'{family}/{size}/{name}'
        if name == '64x96' and f'{key}/stage0' not in expected:
            continue
        with torch.no_grad():
            features = model(images)
        for i, x in enumerate(features):
            if f'{key}/stage{i}' in expected:
                want = expected[f'{key}/stage{i}']
                assert_equal(x, want, np.abs(want).max())
                continue
            flat, stat = x.flatten(), expected[f'{key}/stage{i}_stat']
            sample = flat[:: max(1, flat.numel() // 256)]
            assert_equal(sample, expected[f'{key}/stage{i}_sample'], stat[2])
            wide = flat.double()
            found = [wide.mean(), wide.std(correction=0), wide.abs().max()]
            assert_equal(torch.stack(found), stat, stat[2])
        if f'{key}/logits' in expected:
            want = expected[f'{key}/logits']
            found = torch.stack([logits(x[None], weights) for x in features[-1]])
            assert_equal(found.view(len(images), -1)[:, ::16], want, np.abs(want).max())


@pytest.mark.parametrize('family, size', ALL)
def test_mapping_is_one_to_one(family, size):
    theirs = {
        key: torch.empty(shape, device='meta')
        for key, shape in authors_shapes(family, size).items()
    }
    ours = from_authors(theirs)
    assert list(to_authors(ours)) == list(theirs)
    with torch.device('meta'):
        own = backbone(family)(size).state_dict()
    found = {key: v.shape for key, v in ours.items() if not key.startswith(CLASSIFIER)}
    assert found == {key: value.shape for key, value in own.items()}
    for prefix in ('', 'backbone.', 'module.backbone.'):
        keys = {'first': 0, **{prefix + k: v for k, v in theirs.items()}, 'last': 2}
        there = convert(keys, 'mobilevig_det')
        assert list(there) == ['first', *(prefix + k for k in ours), 'last']
        assert list(convert(there, 'authors')) == list(keys)


@pytest.mark.parametrize('family', FAMILIES)
def test_mapping_follows_the_depths(family):
    ours = make(family).state_dict()
    theirs = to_authors(ours)
    assert not set(theirs) & set(ours)
    assert list(from_authors(theirs)) == list(ours)
    make(family).load_state_dict(theirs)


@pytest.mark.parametrize('family, size', SMALLEST)
def test_misfits_are_diagnosed_by_family_and_size(family, size):
    """Of every other backbone, and of the next size of the same one."""
    weights = {
        key: torch.zeros(shape)
        for key, shape in authors_shapes(family, size).items()
        if not key.startswith(CLASSIFIER)
    }
    name = f'{CLASSES[family]}-{size.capitalize()}'
    for other in ('MobileViG', *CLASSES.values()):
        if other == CLASSES[family]:
            continue
        with pytest.raises(UserError) as error:
            SMALL[other].load_state_dict(weights)
        assert f'it is a {name}: ' in str(error.value)
        assert f"type='{CLASSES[family]}' and arch='{size}'" in str(error.value)
    with pytest.raises(UserError, match=f"it has arch='{size}'"):
        backbone(family)('b').load_state_dict(weights)
    own = dict(weights)
    del own['backbone.1.1.dws.dw.weight']
    with pytest.raises(UserError, match='has this arch, but it is incomplete'):
        backbone(family)(size).load_state_dict(own)
    with torch.device('meta'):
        others = mobilevig_det.MobileViG('ti').state_dict()
    with pytest.raises(UserError, match='it is a MobileViG-Ti: '):
        backbone(family)(size).load_state_dict(others)


@pytest.mark.parametrize('family', FAMILIES)
def test_folded_position_encodings_load(family):
    """As MobileViGv2's and RapidNet's code writes them."""
    model, x = make(family).eval(), torch.rand(1, 3, 64, 96)
    theirs = {}
    for key, value in to_authors(model.state_dict()).items():
        if '.cpe.pe.' in key and value.dim() == 4:
            value = value.clone()
            value[:, :, 3, 3] += 1
        theirs[key.replace('.cpe.pe.', '.cpe.reparam_conv.')] = value
    loaded = make(family).eval()
    loaded.load_state_dict(theirs)
    for found, want in zip(loaded.parameters(), model.parameters()):
        torch.testing.assert_close(found, want, atol=1e-6, rtol=0)
    assert list(to_authors(from_authors(theirs))) == list(theirs)
    assert len(loaded(x)) == 4


def rates(model):
    """Of the blocks in order; a graph block's two are alike."""
    found = []
    for stage in model.stages:
        for block in stage:
            if isinstance(block, GraphBlock):
                assert block.mixer.drop_path.drop_prob == block.ffn.drop_path.drop_prob
                found.append(('G', block.ffn.drop_path.drop_prob))
            else:
                found.append(('L', block.drop_path.drop_prob))
    return found


LAST_RATES = dict(
    mobilevigv2=(0.0294, 0.0308, 0.0308, 0.0308),
    greedyvig=(0.1, 0.1, 0.1),
    rapidnet=(0.0200, 0.0217, 0.0217, 0.0217),
    adaptvig=(0.1, 0.1, 0.1),
)


@pytest.mark.parametrize('family, size', ALL)
def test_drop_path_rates(family, size):
    with torch.device('meta'):
        found = rates(backbone(family)(size))
    p, n, expected = np.linspace(0, 0.1, len(found)), 0, []
    for kind, _ in found:
        expected.append(p[n])
        n += kind == 'G' or family in ('greedyvig', 'adaptvig')
    np.testing.assert_allclose([rate for _, rate in found], expected, atol=1e-8)
    last = max(rate for _, rate in found)
    assert round(last, 4) == LAST_RATES[family][SIZES[family].index(size)]
    setting = backbone(family).arch_settings[size]
    assert ''.join(kind for kind, _ in found) == ''.join(
        'L' * b + 'G' * g for b, g in zip(setting['blocks'], setting['graph_blocks'])
    )


@pytest.mark.parametrize('size', [(32, 32), (33, 65), (47, 200), (127, 32)])
@pytest.mark.parametrize('family', FAMILIES)
def test_any_size(family, size, monkeypatch):
    x = torch.rand(2, 3, *size, dtype=torch.double)
    features = make(family).double().eval()(x)
    for i, feature in enumerate(features):
        strided = [-(-side // 2 ** (i + 2)) for side in size]
        assert feature.shape == (2, TINY['channels'][i], *strided)
    monkeypatch.setattr(mobilevigv2, 'cross_max', naive_cross_max)
    monkeypatch.setattr(greedyvig, 'thresholded_max', naive_thresholded_max)
    monkeypatch.setattr(adaptvig, 'gated_max', naive_gated_max)
    for feature, want in zip(features, make(family).double().eval()(x)):
        torch.testing.assert_close(feature, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='GN', num_groups=2)])
def test_fused_outputs(family, norm_cfg):
    model = make(family, norm_cfg=norm_cfg).double().eval()
    x = torch.rand(1, 3, 75, 98, dtype=torch.double)
    with torch.no_grad():
        expected = model(x)
        fused = copy.deepcopy(model).fuse()
        outputs = [fused(x), fused.fuse()(x)]
    for outs in outputs:
        for out, want in zip(outs, expected):
            torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    assert all(m.folded for m in fused.modules() if isinstance(m, PositionEncoding))
    left = [name for name in fused.state_dict() if 'scale' in name]
    assert bool(left) == (norm_cfg['type'] == 'GN')
    with pytest.raises(UserError, match='fused'):
        fused.train()


@pytest.mark.parametrize('with_cp', [True, 'act'])
@pytest.mark.parametrize('family', FAMILIES)
def test_recomputing_changes_nothing(family, with_cp):
    x = torch.rand(2, 3, 64, 96, dtype=torch.double)
    kept, gradients, statistics = [], [], []
    for mode in (False, with_cp):
        model = make(family, with_cp=mode).double().train()
        kept.append(0)

        def keep(tensor):
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = sum(out.square().mean() for out in model(x))
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        statistics.append(list(model.buffers()))
    assert kept[1] < 0.9 * kept[0]
    for found, want in zip(*gradients):
        assert found is not None
        torch.testing.assert_close(found, want)
    for found, want in zip(*statistics):
        assert torch.equal(found, want)


@pytest.mark.parametrize('indices', [(0,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize('family', FAMILIES)
def test_out_indices(family, indices):
    every, some = make(family).eval(), make(family, out_indices=indices).eval()
    x = torch.rand(1, 3, 64, 72)
    outs, want = some(x), every(x)
    assert isinstance(outs, tuple) and len(outs) == len(indices)
    for out, i in zip(outs, indices):
        assert torch.equal(out, want[i])
    assert backbone(family).out_channels(TINY, indices) == [o.shape[1] for o in outs]
    sum(out.sum() for out in some.train()(torch.rand(2, 3, 64, 72))).backward()
    for name, parameter in some.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
@pytest.mark.parametrize('family', FAMILIES)
def test_frozen_stages_and_norm_eval(family, frozen_stages):
    model = make(family, frozen_stages=frozen_stages, norm_eval=True).train()
    frozen = {'stem.': 0}
    for i in range(4):
        frozen[f'stages.{i}.'] = i + 1
    for i in range(3):
        frozen[f'downsamples.{i}.'] = i + 2
    for name, parameter in model.named_parameters():
        first = next(n for p, n in frozen.items() if name.startswith(p))
        assert parameter.requires_grad == (first > frozen_stages), name
    assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))


@pytest.mark.parametrize('family', FAMILIES)
def test_initial_weights(family):
    torch.manual_seed(0)
    model = backbone(family)(SIZES[family][0], layer_scale_init_value=1e-3)
    model.init_weights()
    scales = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4 and parameter.numel() > 5000:
            fan_in = parameter[0].numel()
            std = float(parameter.detach().std()) * (fan_in / 2) ** 0.5
            assert abs(std - 1) < 0.05, name
        elif name.endswith('layer_scale'):
            assert (parameter == 1e-3).all()
            assert parameter.dim() == (1 if family in ('greedyvig', 'adaptvig') else 3)
            scales += 1
        elif name.endswith('temperature'):
            assert parameter == 1
        elif name.endswith('bias'):
            assert not parameter.any()
    setting = backbone(family).arch_settings[SIZES[family][0]]
    assert scales == sum(setting['blocks']) + 2 * sum(setting['graph_blocks'])


@pytest.mark.parametrize(
    'kwargs, said',
    [
        (dict(arch='xl'), ["'xl'", "'m'", "'channels', 'blocks' and 'graph_blocks'"]),
        (dict(arch=dict(channels=(4, 6, 8, 10), blocks=(1, 1, 1, 1))), ['exactly']),
        (
            dict(arch=dict(TINY, graph_blocks=(0, 0, 1))),
            ["arch['graph_blocks'] must be 4 integers"],
        ),
        (dict(arch=dict(TINY, graph_blocks=(0, 0, 1, -1))), ['integers from 0 to']),
        (dict(arch=dict(TINY, blocks=(0, 1, 1, 1))), ['integers from 1 to']),
        (dict(graph_strides=(8, 4)), ['graph_strides', '(8, 4)']),
        (dict(graph_strides=7), ['graph_strides']),
        (dict(out_indices=(2, 1)), ['ascending subset']),
        (dict(drop_path_rate=1.0), ['[0, 1)']),
        (dict(frozen_stages=5), ['-1']),
        (dict(with_cp='block'), ["'act'"]),
    ],
)
@pytest.mark.parametrize('family', FAMILIES)
def test_bad_arguments(family, kwargs, said):
    with pytest.raises(UserError) as error:
        backbone(family)(**{'arch': TINY, **kwargs})
    for words in said:
        assert words in str(error.value)


def test_bad_strides():
    for strides in ((8, 4, 2, 0), (8, 4, 2, True), (8, 4, 2, 1.0)):
        with pytest.raises(
            UserError, match='graph_strides must be a list of 4 integers of'
        ):
            mobilevig_det.GreedyViG(TINY, graph_strides=strides)
    with pytest.raises(UserError, match='no graph strides'):
        mobilevig_det.RapidNet(TINY, graph_strides=(8, 4, 2, 1))
    with pytest.raises(UserError, match=r'32 x 32 pixels, but got 31 x 64'):
        mobilevig_det.AdaptViG(TINY)(torch.rand(1, 3, 31, 64))


@pytest.mark.parametrize('family', FAMILIES)
def test_graph_strides_are_the_stages(family):
    x = torch.rand(1, 3, 128, 160)
    model = make(family).eval()
    strides = model.graph_strides
    for other, same in ((strides, True), (tuple(2 * s for s in strides), not strides)):
        found = make(family, graph_strides=other).eval()(x)[-1]
        assert torch.equal(found, model(x)[-1]) == same


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_compiled(family):
    model, x = make(family), torch.rand(2, 3, 64, 96)
    compiled = make(family, compile_cfg=dict(backend='aot_eager', fullgraph=True))
    assert list(compiled.state_dict()) == list(model.state_dict())
    outs, expected = compiled(x), model(x)
    for out, want in zip(outs, expected):
        torch.testing.assert_close(out, want)
