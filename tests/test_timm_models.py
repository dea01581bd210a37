"""MobileViG in timm: timm's own tests of a model, and weights of the authors."""

import math
import os
import subprocess
import sys
from pathlib import Path

import mobilevig_det
from mobilevig_det import MobileViG
from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.errors import UserError

import pytest
import siblings
import torch
from checkpoints import imagenet_checkpoint
from mmdet.registry import MODELS
from reference import ARCHS, golden_input, golden_state_dict

ROOT = Path(__file__).parents[1]
CHANNELS = dict(
    ti=[42, 84, 168, 256],
    s=[42, 84, 176, 256],
    m=[42, 84, 224, 400],
    b=[42, 84, 240, 464],
)
HIDDEN = dict(ti=512, s=512, m=768, b=768)


@pytest.fixture(scope='module')
def authors_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('timm') / 'authors.pth.tar'
    torch.save(imagenet_checkpoint('ti'), path)
    return str(path)


@pytest.fixture(scope='module')
def classifier():
    """Our classifier under MMEngine, with the averaged weights of the file."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='MobileViG', arch='ti'),
            head=dict(type='DistilledHead', in_channels=256, hidden_channels=512),
        )
    )
    model.load_state_dict(golden_state_dict('ti'))
    return model.eval()


def test_registered(timm):
    names = [f'mobilevig_{arch}' for arch in ARCHS]
    assert sorted(timm.list_models('mobilevig_*')) == sorted(names)
    for family, sizes in siblings.SIZES.items():
        names = [f'{family}_{size}' for size in sizes]
        assert sorted(timm.list_models(f'{family}_*')) == sorted(names)
        for name in names:  # timm finds models as attributes
            assert callable(getattr(mobilevig_det.timm_models, name))
    assert timm.list_models('mobilevig*', pretrained=True) == []


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters_and_features(timm, arch):
    """At every size, with the layers that the default config names."""
    model = timm.create_model(f'mobilevig_{arch}').eval()
    millions = dict(ti=5.27, s=7.28, m=14.08, b=26.87)
    count = sum(p.numel() for p in model.parameters())
    assert round(count / 1e6, 2) == millions[arch]
    assert model.num_features == CHANNELS[arch][-1]
    assert model.head_hidden_size == HIDDEN[arch]
    names = model.state_dict()
    cfg = model.default_cfg
    for layer in (cfg['first_conv'], *cfg['classifier']):
        assert f'{layer}.weight' in names

    model = timm.create_model(f'mobilevig_{arch}', features_only=True).eval()
    assert model.feature_info.channels() == CHANNELS[arch]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    with torch.no_grad():
        maps = model(torch.rand(2, 3, 65, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, math.ceil(65 / r), math.ceil(96 / r))
        for c, r in zip(CHANNELS[arch], (4, 8, 16, 32))
    ]
    assert all(m.isfinite().all() for m in maps)


def test_forward(timm):
    model = timm.create_model('mobilevig_ti').eval()
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 1000) and logits.isfinite().all()
    assert logits.std() > 0.01


@pytest.mark.parametrize('recompute', [False, True])
def test_backward(timm, recompute):
    torch.manual_seed(0)
    model = timm.create_model('mobilevig_ti', num_classes=42, drop_path_rate=0.0)
    model.train().set_grad_checkpointing(recompute)
    outputs = model(torch.rand(2, 3, 64, 64))
    assert outputs.shape == (2, 42)
    outputs.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_gradients_are_the_same_with_checkpointing(timm):
    model = timm.create_model('mobilevig_ti', num_classes=3).eval()
    images = torch.rand(1, 3, 64, 64)
    want = torch.autograd.grad(model(images).sum(), model.backbone.stem.parameters())
    model.set_grad_checkpointing()
    calls = []
    model.backbone.stages[0][1].register_forward_pre_hook(lambda *args: calls.append(1))
    got = torch.autograd.grad(model(images).sum(), model.backbone.stem.parameters())
    torch.testing.assert_close(got, want)
    assert len(calls) == 2


def test_default_config(timm):
    model = timm.create_model('mobilevig_ti').eval()
    cfg = model.pretrained_cfg
    assert cfg['architecture'] == 'mobilevig_ti'
    assert cfg['input_size'] == (3, 224, 224) and cfg['pool_size'] == (7, 7)
    assert (cfg['crop_pct'], cfg['interpolation']) == (0.9, 'bicubic')
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (1, model.num_features, 7, 7)
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (1, model.head_hidden_size)

        model.reset_classifier(0)
        assert model.num_classes == 0
        assert torch.equal(model.forward_head(features), hidden)

        model.reset_classifier(0, '')
        assert model.forward_head(features).shape == (1, 512, 7, 7)

        model.reset_classifier(5, 'avg')
        assert model.forward_head(features).shape == (1, 5)
        assert model.get_classifier() == (model.head.head, model.head.dist_head)

    bare = timm.create_model('mobilevig_ti', num_classes=0, global_pool='').eval()
    with torch.no_grad():
        assert bare(images[..., :64, :96]).shape == (1, 512, 2, 3)


def test_authors_file(timm, authors_file, classifier):
    """timm loads the averaged weights, and the raw ones with use_ema=False.

    Logits and feature maps equal those of our classifier and backbone.
    """
    from timm.models import load_checkpoint

    images = golden_input(96, 64)
    with torch.no_grad():
        logits, maps = classifier(images), classifier.backbone(images)
    model = timm.create_model('mobilevig_ti', checkpoint_path=authors_file).eval()
    features = timm.create_model(
        'mobilevig_ti',
        features_only=True,
        pretrained=True,
        pretrained_cfg_overlay=dict(file=authors_file),
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits, rtol=0, atol=0)
        torch.testing.assert_close(features(images), list(maps), rtol=0, atol=0)

    load_checkpoint(model, authors_file, use_ema=False)
    bias = read_checkpoint(authors_file)['state_dict']['head.bias']
    assert torch.equal(model.head.head.bias, bias)


def test_state_dicts_are_interchangeable_with_our_classifier(timm, classifier):
    model = timm.create_model('mobilevig_ti')
    model.load_state_dict(classifier.state_dict(), strict=True)
    classifier.load_state_dict(model.state_dict(), strict=True)


def test_backbone_of_a_detector_checkpoint(timm, tmp_path, classifier):
    """With the names of the authors and with ours."""
    ours = classifier.backbone.state_dict()
    theirs = {
        key: value
        for key, value in golden_state_dict('ti').items()
        if not key.startswith(('prediction.', 'head.', 'dist_head.'))
    }
    for weights in (ours, theirs):
        weights = {f'backbone.{key}': value for key, value in weights.items()}
        weights['neck.conv.weight'] = torch.zeros(3)
        torch.save(dict(state_dict=weights), tmp_path / 'detector.pth')
        model = timm.create_model(
            'mobilevig_ti',
            features_only=True,
            pretrained=True,
            pretrained_cfg_overlay=dict(file=str(tmp_path / 'detector.pth')),
        )
        loaded = model.model.backbone.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in ours.items())


def test_other_classes_and_channels(timm, authors_file):
    """Fine-tuning in timm: new classifiers, and an adapted first convolution."""
    model = timm.create_model(
        'mobilevig_ti',
        pretrained=True,
        num_classes=7,
        in_chans=1,
        pretrained_cfg_overlay=dict(file=authors_file),
    )
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    golden = golden_state_dict('ti')
    assert torch.equal(model.head.prediction[1].bias, golden['prediction.1.bias'])
    torch.testing.assert_close(
        model.backbone.stem[0].conv.weight,
        golden['stem.stem.0.weight'].sum(1, keepdim=True),
    )


def test_published_file(timm, tmp_path, monkeypatch):
    torch.save(imagenet_checkpoint('s'), tmp_path / 'MobileViG_S_78_2.pth.tar')
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    model = timm.create_model('mobilevig_s', pretrained=True)
    assert torch.equal(model.head.head.bias, golden_state_dict('s')['head.bias'])
    assert 'state_dict' not in model.pretrained_cfg  # no second copy of the weights
    with pytest.raises(UserError, match='not known.*pretrained_cfg_overlay'):
        timm.create_model('mobilevig_ti', pretrained=True)


def test_file_of_another_size(timm, authors_file):
    with pytest.raises(UserError, match="it has arch='ti'"):
        timm.create_model('mobilevig_s', checkpoint_path=authors_file)


@pytest.mark.parametrize('way', ['getter', 'hook'])
def test_chosen_features(timm, way):
    model = timm.create_model(
        'mobilevig_ti', features_only=True, out_indices=(1, 2), feature_cls=way
    ).eval()
    assert model.feature_info.channels() == [84, 168]
    body = model['model' if way == 'getter' else 'body'].backbone
    backbone = MobileViG('ti').eval()
    images = torch.rand(1, 3, 64, 96)
    if way == 'getter':
        assert len(body.stages) == 3 and len(body.downsamples) == 2
        weights = {**backbone.state_dict(), **body.state_dict()}
    else:
        weights = body.state_dict()
    backbone.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(model(images), list(backbone(images)[1:3]))


def test_features_train(timm):
    """Every weight of a features-only model gets a gradient.

    DistributedDataParallel would wait for one without.
    """
    model = timm.create_model('mobilevig_ti', features_only=True, out_indices=(0, -2))
    sum(m.sum() for m in model.train()(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_intermediates(timm):
    model = timm.create_model('mobilevig_ti').eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        last, maps = model.forward_intermediates(images)
        assert torch.equal(last, model.forward_features(images))
        assert len(maps) == 4 and torch.equal(maps[-1], last)
        (third,) = model.forward_intermediates(images, [-2], intermediates_only=True)
        assert torch.equal(third, maps[2])
        assert len(model.forward_intermediates(images, 3)[1]) == 3
        early, _ = model.forward_intermediates(images, [0, 1], stop_early=True)
        assert torch.equal(early, maps[1])
        late, _ = model.forward_intermediates(images, [0, 1])
        assert torch.equal(late, last)
        assert model.prune_intermediate_layers([2]) == [2]
        assert torch.equal(model(images), maps[2])
        model.reset_classifier(4, 'avg')
        assert model(images).shape == (1, 4)


def test_layers_by_depth(timm):
    """Every weight belongs to a layer, and the layers are in forward order."""
    from timm.models import group_parameters

    model = timm.create_model('mobilevig_ti')
    for coarse, groups in ((False, 1 + 12 + 3 + 1), (True, 1 + 4 + 1)):
        layers = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(layers) == dict(model.named_parameters()).keys()
        assert set(layers.values()) == set(range(groups))
        order = [
            'backbone.stem.0.conv.weight',
            'backbone.stages.0.0.expand.conv.weight',
            'backbone.downsamples.0.conv.weight',
            'backbone.stages.1.0.expand.conv.weight',
            'backbone.stages.3.1.ffn.fc1.conv.weight',
            'head.head.weight',
        ]
        depths = [layers[name] for name in order]
        assert depths == sorted(depths)
        assert {layers[n] for n in layers if n.startswith('head.')} == {groups - 1}


def test_distilled_training(timm):
    model = timm.create_model('mobilevig_ti', num_classes=3)
    model.set_distilled_training()
    images = torch.rand(2, 3, 64, 64)
    first, second = model.train()(images)
    assert first.shape == second.shape == (2, 3) and not torch.equal(first, second)
    assert model.eval()(images).shape == (2, 3)


def test_dropout_rates(timm):
    model = timm.create_model('mobilevig_ti', drop_rate=0.3, drop_path_rate=0.2)
    assert model.head.prediction[-1].p == 0.3
    rates = [m.drop_prob for m in model.modules() if hasattr(m, 'drop_prob')]
    assert max(rates) == pytest.approx(0.2)


def test_dtype_and_device(timm):
    model = timm.create_model('mobilevig_ti', dtype=torch.bfloat16, device='cpu')
    model.reset_classifier(3)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_initial_weights(timm):
    """Kaiming normal and zero biases, also in a classifier that is added later."""
    model = timm.create_model('mobilevig_ti')
    model.reset_classifier(100)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 10000:
            fan_in = layer.weight[0].numel()
            std = float(layer.weight.detach().std())
            assert std == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), name
            assert not layer.bias.any(), name


def test_unsupported_global_pool_is_an_error(timm):
    with pytest.raises(UserError, match="'avg' or '', but is 'max'"):
        timm.create_model('mobilevig_ti', global_pool='max')


PROGRAM = """
import importlib, sys
import mobilevig_det
from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.errors import UserError

assert 'timm' not in sys.modules
sys.modules['timm'] = None
importlib.reload(mobilevig_det.registration)
try:
    import mobilevig_det.timm_models
except UserError as error:
    assert 'MobileViG in timm needs timm 1.0 or newer' in str(error), error
else:
    raise AssertionError
del sys.modules['timm']

from torchvision_stand_in import import_with_stand_in

timm = import_with_stand_in('timm')
assert not timm.is_model('mobilevig_m')
importlib.reload(mobilevig_det.registration)
assert timm.is_model('mobilevig_m')
"""


def test_importing_this_package_does_not_import_timm(timm):
    """If timm is imported already, it registers the models."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / 'tests' / 'helpers')))
    subprocess.run(
        [sys.executable, '-c', PROGRAM],
        env=dict(os.environ, PYTHONPATH=paths),
        check=True,
    )
