"""The siblings' published files by name; files of their layouts load and convert."""

import copy

import mobilevig_det
from mobilevig_det.checkpoints import weights
from mobilevig_det.checkpoints.weights import PUBLISHED
from mobilevig_det.errors import UserError

import pytest
import torch
from checkpoints import run_tool
from siblings import ALL, CLASSES, ONE_AND_OTHERS, SMALLEST, golden_state_dict

DETECTORS = dict(mobilevigv2='mb', greedyvig='sb', rapidnet='mb', adaptvig='mb')
PAGES = 'https://huggingface.co/SLDGroup/'


def test_every_published_file_has_a_name():
    assert set(PUBLISHED) == {
        *('ti', 's', 'm', 'b', 'coco-m', 'coco-b'),
        *(f'{family}-{size}' for family, size in ALL),
        *(f'pyramidvig-{size}' for size in ('ti', 's', 'm', 'b')),
        *(
            f'coco-{family}-{size}'
            for family, sizes in DETECTORS.items()
            for size in sizes
        ),
    }


@pytest.mark.parametrize(
    'name, address',
    [
        ('greedyvig-m', 'GreedyViG/resolve/main/M_GreedyViG_82_9.pth'),
        ('rapidnet-ti', 'RapidNet/resolve/main/RapidNet_Ti.pth'),
        ('adaptvig-b', 'AdaptViG/resolve/main/AdaptViG_B_model_best.pth'),
        (
            'coco-mobilevigv2-m',
            'MobileViGv2/resolve/main/Obj_Detection/MobileViG_V2_M_Detection.pth',
        ),
        ('coco-greedyvig-s', 'GreedyViG/resolve/main/Detection/GreedyViG_S_Det.pth'),
        ('coco-rapidnet-b', 'RapidNet/resolve/main/Detection/RapidNet_B_Detection.pth'),
        ('coco-adaptvig-m', 'AdaptViG/resolve/main/Detection/AdaptViG_M_Det.pth'),
        ('coco-b', 'MobileViG/resolve/main/Detection/det_mobilevig_b_64_3.pth'),
    ],
)
def test_addresses(name, address, monkeypatch):
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    asked = []
    monkeypatch.setattr(weights, '_download', lambda url, sha256: asked.append(url))
    weights.find_file(f'mobilevig://{name.upper()}')
    assert asked == [PAGES + address]


def test_an_unknown_address(monkeypatch, tmp_path):
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    with pytest.raises(UserError, match='MobileViG_V2_Ti_Class.pth, is not known'):
        weights.find_file('mobilevig://mobilevigv2-ti')
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    path = tmp_path / 'MobileViG_V2_Ti_Class.pth'
    path.touch()
    assert weights.find_file('mobilevig://mobilevigv2-ti') == path


def best_model(family, size):
    """What the scripts write at each new best: the golden weights are the
    averaged ones."""
    golden = golden_state_dict(family, size)
    raw = {k: v + 1 if v.is_floating_point() else v for k, v in golden.items()}
    return {'state_dict': raw, 'state_dict_ema': golden}


OF_A_FILE = pytest.mark.parametrize(
    'published',
    [pytest.param(p.values, marks=p.marks) for p in ONE_AND_OTHERS],
    indirect=True,
)


@pytest.fixture
def published(tmp_path, request):
    """The family, its size, a folder with its file under the published name."""
    family, size = request.param
    torch.save(best_model(family, size), tmp_path / PUBLISHED[f'{family}-{size}'].path)
    return family, size, tmp_path


@OF_A_FILE
def test_by_name(published, monkeypatch):
    family, size, folder = published
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(folder))
    cls = getattr(mobilevig_det, CLASSES[family])
    models = [
        cls(
            size,
            init_cfg=dict(type='Pretrained', checkpoint=f'mobilevig://{family}-{size}'),
        ),
        cls(size),
    ]
    models[0].init_weights()
    models[1].load_state_dict(golden_state_dict(family, size))
    for found, want in zip(*(m.state_dict().values() for m in models)):
        assert torch.equal(found, want)


@OF_A_FILE
def test_convert_tool(published, monkeypatch, tmp_path):
    family, size, folder = published
    original = folder / PUBLISHED[f'{family}-{size}'].path
    ours, theirs = tmp_path / 'ours.pth', tmp_path / 'theirs.pth'
    for source, target, layout in (
        (original, ours, 'mobilevig_det'),
        (ours, theirs, 'authors'),
    ):
        assert (
            run_tool(monkeypatch, 'convert_checkpoint', source, target, '--to', layout)
            is None
        )
    first, between, last = (
        torch.load(path, weights_only=True) for path in (original, ours, theirs)
    )
    model = getattr(mobilevig_det, CLASSES[family])(size)
    for name in ('state_dict', 'state_dict_ema'):
        assert list(last[name]) == list(first[name])
        for key, value in first[name].items():
            assert torch.equal(last[name][key], value)
        assert set(model.state_dict()) <= set(between[name])


@pytest.mark.parametrize('family, size', SMALLEST)
def test_detector(family, size):
    """As MMDetection 2.28 wrote them: all below 'backbone.'."""
    backbone = getattr(mobilevig_det, CLASSES[family])(size)
    detector = torch.nn.ModuleDict(
        dict(backbone=backbone, neck=torch.nn.Conv2d(1, 1, 1))
    )
    golden = {
        key: value
        for key, value in golden_state_dict(family, size).items()
        if not key.startswith(('prediction.', 'head.', 'dist_head.'))
    }
    state_dict = {f'backbone.{key}': value for key, value in golden.items()}
    state_dict.update(
        {f'neck.{k}': v for k, v in detector['neck'].state_dict().items()}
    )
    detector.load_state_dict(copy.copy(state_dict), strict=True)
    assert torch.equal(
        backbone.state_dict()['stages.3.0.expand.conv.weight'],
        golden['backbone.3.1.dws.pw1.weight'],
    )
    with pytest.raises(UserError, match='belongs to a complete detector'):
        backbone.load_state_dict(state_dict)
