"""Models of timm as backbones, against timm's own classifiers."""

from mobilevig_det.backbones import TimmBackbone, fuse_backbones
from mobilevig_det.checkpoints import through_scheme
from mobilevig_det.errors import UserError

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

# Layouts of timm: flattened, EfficientNet's and MobileNetV3's own, NHWC, wrapped whole.
MODELS_AND_ARGS = {
    'resnet10t': {},
    'mobilenetv4_conv_small_035': {},
    'repvit_m0_9': {},
    'swin_tiny_patch4_window7_224': dict(strict_img_size=False),
    'poolformer_s12': {},
    'efficientnet_lite0': {},
    'ghostnet_050': {},
    'mambaout_femto': {},
}
SMALL = 'resnet10t', 'mobilenetv4_conv_small_035', 'mambaout_femto'
NAMES = pytest.mark.parametrize('name', MODELS_AND_ARGS)
SMALL_NAMES = pytest.mark.parametrize('name', SMALL)

pytestmark = pytest.mark.usefixtures('timm')


def make(name, **kwargs):
    torch.manual_seed(0)
    return TimmBackbone(name, **MODELS_AND_ARGS.get(name, {}), **kwargs)


def classifier_of(timm, name):
    """A classifier with other weights than :func:`make`, and trained statistics."""
    torch.manual_seed(1)
    model = timm.create_model(name, **MODELS_AND_ARGS.get(name, {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


def close(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def running(model):
    return {k: v.clone() for k, v in model.state_dict().items() if 'running' in k}


@NAMES
def test_maps_and_weights_are_the_classifiers(timm, name, tmp_path):
    """Of a file with a classifier's weights, read by init_cfg."""
    classifier, path = classifier_of(timm, name), tmp_path / 'classifier.pth'
    torch.save(dict(state_dict=classifier.state_dict()), path)
    model = make(name, init_cfg=dict(type='Pretrained', checkpoint=str(path))).eval()
    model.init_weights()
    images = torch.rand(2, 3, 64, 160)
    with torch.no_grad():
        maps = model(images)
        expected = classifier.forward_intermediates(images, intermediates_only=True)
    close(maps, expected[-4:])
    assert all(m.is_contiguous() for m in maps)
    channels = TimmBackbone.out_channels(name, **MODELS_AND_ARGS[name])
    assert channels == [m.shape[1] for m in maps]
    assert [m.shape[2:] for m in maps] == [(64 // s, 160 // s) for s in (4, 8, 16, 32)]
    assert str(channels) in repr(model)


@SMALL_NAMES
def test_frozen_stages_are_what_the_map_depends_on(name):
    model = make(name)
    names, parameters = zip(*model.named_parameters())
    image, frozen = torch.rand(2, 3, 64, 96), {}
    maps = model(image)
    for number in range(5):
        model.frozen_stages = number
        model.requires_grad_(True)
        model.train()
        frozen[number] = {n for n, p in zip(names, parameters) if not p.requires_grad}
    model.requires_grad_(True)
    for number in (1, 2, 4):
        reached = torch.autograd.grad(
            maps[number - 1].sum(), parameters, retain_graph=True, allow_unused=True
        )
        uses = {n for n, gradient in zip(names, reached) if gradient is not None}
        assert frozen[number] == uses
    assert frozen[0] and frozen[0] < frozen[1]
    before = running(model)  # everything is frozen
    model(image)
    assert all(torch.equal(before[k], v) for k, v in running(model).items())


@SMALL_NAMES
def test_fewer_stages_leave_no_parameter_without_gradient(name):
    model = make(name, out_indices=(1, 2), frozen_stages=0, norm_eval=True)
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    images = torch.rand(2, 3, 64, 96)
    maps = model(images)
    close(maps, make(name, norm_eval=True).train()(images)[1:3])
    sum(m.mean() for m in maps).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@SMALL_NAMES
def test_recomputing_changes_neither_gradients_nor_statistics(name):
    images, results = torch.rand(2, 3, 64, 96), []
    for with_cp in (False, True):
        model = make(name, with_cp=with_cp).train()
        maps = model(images)
        sum(m.square().mean() for m in maps).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([*maps, *gradients, *running(model).values()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_recomputing_saves_memory():
    saved = []
    for with_cp in (False, True):
        sizes: list[int] = []
        pack = lambda t, s=sizes: s.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            make('resnet10t', with_cp=with_cp).train()(torch.rand(1, 3, 64, 96))
        saved.append(sum(sizes))
    assert saved[1] < 0.7 * saved[0]


def test_fused_outputs():
    model = nn.ModuleDict(dict(backbone=make('repvit_m0_9').eval()))
    backbone, image = model['backbone'], torch.rand(1, 3, 64, 96)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.8, 1.2)
    with torch.no_grad():
        expected = backbone(image)
        assert fuse_backbones(model) == 1
        close(backbone(image), expected)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    with pytest.raises(UserError, match='fused'):
        backbone.train()


def spoil(weights, kind, timm):
    last = [key for key in weights if key.startswith(('layer4', 'stages.3', 'blocks'))]
    if kind == 'other model':
        return timm.create_model('resnet18').state_dict()
    if kind == 'without a stage':
        return {k: v for k, v in weights.items() if k not in last}
    if kind == 'renamed':
        return {f'encoder.{k}': v for k, v in weights.items()}
    if kind == 'other shape':
        return {**weights, last[0]: weights[last[0]][:3]}
    return {}


@pytest.mark.parametrize(
    'name, kind',
    [('resnet10t', kind) for kind in ('renamed', 'other shape', 'empty', 'other model')]
    + [(name, 'without a stage') for name in SMALL]
    + [('mambaout_femto', 'other model')],
)
def test_weights_that_do_not_fit_are_refused(timm, name, kind, tmp_path):
    """By each way of loading: MMEngine's two, strict or not, and init_cfg."""
    weights = spoil(classifier_of(timm, name).state_dict(), kind, timm)
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=weights), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model, message = make(name, init_cfg=init_cfg), f'does not fit .{name}. of timm'
    for load in (
        model.init_weights,
        lambda: model.load_state_dict(weights, strict=False),
        lambda: load_checkpoint(model, through_scheme(init_cfg)['checkpoint']),
    ):
        with pytest.raises(UserError, match=message):
            load()


def test_own_checkpoints_and_those_of_detectors_load(tmp_path):
    trained, path = make('resnet10t'), tmp_path / 'detector.pth'
    weights = {f'backbone.{k}': v + 1 for k, v in trained.state_dict().items()}
    torch.save(dict(state_dict={**weights, 'neck.weight': torch.ones(1)}), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = make('resnet10t', init_cfg=init_cfg)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{key}'])
    del weights['backbone.body.conv1.0.weight']
    with pytest.raises(UserError, match='missing: body.conv1.0.weight'):
        nn.ModuleDict(dict(backbone=model)).load_state_dict(weights, strict=False)


@pytest.mark.parametrize('kind', ['right', 'other model', 'no network'])
def test_download_happens_only_when_weights_are_initialized(timm, kind, monkeypatch):
    weights = classifier_of(timm, 'resnet10t').state_dict()
    model = make('resnet10t', pretrained=True)  # and nothing is downloaded

    def download(*args, **kwargs):
        if kind == 'no network':
            raise OSError('There is no network')
        return dict(weights) if kind == 'right' else spoil(weights, kind, timm)

    monkeypatch.setattr(timm.models._builder, 'load_state_dict_from_hf', download)
    if kind == 'right':
        model.init_weights()
        for key, value in model.state_dict().items():
            assert torch.equal(value, weights[key.removeprefix('body.')])
    else:
        with pytest.raises(UserError, match='resnet10t cannot be downloaded'):
            model.init_weights()


def test_safetensors_files_load(timm, tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    weights, path = classifier_of(timm, 'ghostnet_050').state_dict(), tmp_path / 'a'
    path = path.with_suffix('.safetensors')
    save_file(weights, path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = make('ghostnet_050', init_cfg=init_cfg)
    model.init_weights()
    loaded = model.state_dict()
    assert torch.equal(loaded['body.conv_stem.weight'], weights['conv_stem.weight'])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match='damaged'):
        make('ghostnet_050', init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    'name, kwargs, message',
    [
        ('repvit_m11', {}, "Did you mean 'repvit_m1_1'"),
        ('levit_128s', {}, r'strides \[16, 32, 64\].* needs \[4, 8, 16, 32\]'),
        ('deit_tiny_patch16_224', {}, r'strides \[16\].*such as resnet50'),
        ('efficientformer_l1', {}, '224 x 224 .*no argument changes that'),
        ('efficientformerv2_s0', {}, r'add img_size=\(HEIGHT, WIDTH\)'),
        ('swin_tiny_patch4_window7_224', {}, 'add strict_img_size=False'),
        ('resnet10t', dict(bogus=1), "unexpected keyword argument 'bogus'"),
        ('resnet10t.bogus', {}, 'Invalid pretrained tag'),
        ('resnet10t', dict(with_cp='act'), 'with_cp must be True or False'),
        ('resnet10t', dict(frozen_stages=5), 'frozen_stages must be'),
        ('resnet10t', dict(out_indices=(0, 4)), 'out_indices must be'),
        ('ghostnet_050', dict(pretrained=True), 'no weights'),
        (
            'resnet10t',
            dict(pretrained=True, init_cfg=dict(type='Pretrained', checkpoint='a')),
            'set only one',
        ),
    ],
)
def test_refused_arguments(name, kwargs, message):
    with pytest.raises(UserError, match=message):
        TimmBackbone(name, **kwargs)


def test_model_of_one_size_runs_at_the_size_it_was_built_for():
    model = TimmBackbone('efficientformerv2_s0', img_size=(64, 128)).eval()
    assert [tuple(m.shape[2:]) for m in model(torch.rand(1, 3, 64, 128))] == [
        (16, 32), (8, 16), (4, 8), (2, 4)
    ]  # fmt: skip


def test_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(UserError, match=r'needs timm .*mobilevig_det\[imagenet\]'):
        TimmBackbone('resnet10t')
