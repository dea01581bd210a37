"""The authors' COCO checkpoints, and our own, through every ordinary door."""

from types import SimpleNamespace

from mobilevig_det.checkpoints.key_mapping import convert
from mobilevig_det.config import load_config
from mobilevig_det.datasets.shapes import make_shapes
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from checkpoints import Hostile, coco_checkpoint, imagenet_checkpoint, run_tool
from mmdet.apis import DetInferencer, init_detector
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from reference import golden_features, golden_input

CLASSES = ('circle', 'square', 'triangle')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """config.py (Ti, narrow heads, three classes) and detectors'
    checkpoints: authors.pth and ours.pth, of the same weights."""
    folder = tmp_path_factory.mktemp('coco')
    init_default_scope('mmdet')
    make_shapes(folder / 'shapes', num_train=2, num_val=2, size=96)
    cfg = load_config('mobilevig_ti_fpn_shapes')
    cfg.merge_from_dict(
        {
            'test_dataloader.dataset.data_root': f'{folder}/shapes/',
            'test_evaluator.ann_file': (
                f'{folder}/shapes/annotations/instances_val.json'
            ),
            'test_dataloader.num_workers': 0,
            'test_dataloader.persistent_workers': False,
        }
    )
    cfg.dump(folder / 'config.py')
    detector = MODELS.build(cfg.model)
    theirs = coco_checkpoint(detector.state_dict(), classes=CLASSES)
    torch.save(theirs, folder / 'authors.pth')
    torch.save(
        {
            'meta': {
                'dataset_meta': {
                    'classes': CLASSES,
                    'palette': [(1, 2, 3), (4, 5, 6), (7, 8, 9)],
                },
                'epoch': 1,
            },
            'state_dict': convert(theirs['state_dict'], 'mobilevig_det'),
        },
        folder / 'ours.pth',
    )
    return folder


def assert_loaded(detector, folder):
    """The golden features, and the file's heads."""
    detector.eval()
    golden = golden_features()
    with torch.no_grad():
        outs = detector.backbone(golden_input(64, 96))
    for i, out in enumerate(outs):
        expected = torch.from_numpy(golden[f'ti/64x96/stage{i}'])
        error = (out - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, i
    weights = torch.load(folder / 'ours.pth', weights_only=True)['state_dict']
    own = detector.state_dict()
    assert set(own) == set(weights)
    for key in own:
        assert torch.equal(own[key], weights[key]), key


@pytest.mark.parametrize('name', ['authors.pth', 'ours.pth'])
def test_init_detector(folder, name):
    detector = init_detector(
        str(folder / 'config.py'), str(folder / name), device='cpu'
    )
    assert_loaded(detector, folder)
    assert detector.dataset_meta['classes'] == CLASSES


@pytest.mark.parametrize('name', ['authors.pth', 'ours.pth'])
def test_inferencer(folder, name, tmp_path):
    inferencer = DetInferencer(
        model=str(folder / 'config.py'),
        weights=f'mobilevig://{folder}/{name}',
        device='cpu',
        show_progress=False,
    )
    assert_loaded(inferencer.model, folder)
    assert inferencer.visualizer.dataset_meta['classes'] == CLASSES
    # Drawn with the names and colours of the file's classes.
    image = np.zeros((64, 96, 3), np.uint8)
    result = inferencer(image, out_dir=str(tmp_path), pred_score_thr=0.0)
    assert set(result['predictions'][0]['labels']) <= {0, 1, 2}
    assert len(list(tmp_path.glob('vis/*'))) == 1


@pytest.mark.parametrize('name', ['authors.pth', 'ours.pth'])
def test_load_from(folder, name):
    detector = MODELS.build(load_config(str(folder / 'config.py')).model)
    runner = SimpleNamespace(
        model=detector,
        logger=MMLogger.get_current_instance(),
        call_hook=lambda *args, **kwargs: None,
    )
    Runner.load_checkpoint(runner, str(folder / name), strict=True)
    assert_loaded(detector, folder)


@pytest.mark.parametrize('name', ['authors.pth', 'ours.pth'])
def test_backbone_alone(folder, name):
    cfg = load_config(str(folder / 'config.py')).model.backbone
    cfg.init_cfg = dict(
        type='Pretrained', checkpoint=str(folder / name), prefix='backbone.'
    )
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    weights = torch.load(folder / 'ours.pth', weights_only=True)['state_dict']
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{key}'])
    del cfg.init_cfg['prefix']
    with pytest.raises(UserError, match="add prefix='backbone.'"):
        MODELS.build(cfg).init_weights()


@pytest.mark.parametrize('name', ['authors.pth', 'ours.pth'])
def test_test_tool(folder, name, tmp_path, monkeypatch):
    tested = []
    run_test = Runner.test
    monkeypatch.setattr(
        Runner, 'test', lambda runner: tested.append((runner.model, run_test(runner)))
    )
    assert (
        run_tool(
            monkeypatch,
            'test',
            folder / 'config.py',
            folder / name,
            '--work-dir',
            tmp_path,
        )
        is None
    )
    ((detector, metrics),) = tested
    assert_loaded(detector, folder)
    assert 0 <= metrics['coco/segm_mAP'] <= 1


def test_tool_refuses(folder, tmp_path, monkeypatch):
    """The tool's one message (for every other wrong file see
    test_weights.py: it is the same loader)."""
    path = tmp_path / 'wrong.pth'
    wrong = {
        'was refused, and nothing in it was run': lambda: torch.save(
            {'state_dict': {}, 'meta': Hostile(tmp_path / 'trace')}, path
        ),
        "it has arch='s'": lambda: torch.save(coco_checkpoint({}, 's'), path),
    }
    for message, write in wrong.items():
        write()
        said = run_tool(
            monkeypatch,
            'test',
            folder / 'config.py',
            path,
            '--work-dir',
            tmp_path / 'work',
        )
        assert message in said
        assert said.startswith('test.py: ') and 'Traceback' not in said
    assert not (tmp_path / 'trace').exists()


def other_files(folder):
    weights = torch.load(folder / 'authors.pth', weights_only=True)['state_dict']
    heads = {k: v for k, v in weights.items() if not k.startswith('backbone')}
    resnet = {'conv1.weight': torch.zeros(64, 3, 7, 7)}
    return {
        "it holds no weights under 'backbone.'": resnet,
        'it belongs to another model': {
            **heads,
            **{f'backbone.{k}': v for k, v in resnet.items()},
        },
        'it belongs to a classifier': imagenet_checkpoint(),
        "it has arch='s'": coco_checkpoint(heads, 's'),
    }


def test_other_models(folder, tmp_path):
    config = str(folder / 'config.py')
    path = str(tmp_path / 'other.pth')

    def by_load_checkpoint():
        load_checkpoint(MODELS.build(load_config(config).model), path)

    def by_init_detector():
        init_detector(config, path, device='cpu')

    for message, checkpoint in other_files(folder).items():
        torch.save(checkpoint, path)
        for door in (by_load_checkpoint, by_init_detector):
            with pytest.raises(UserError) as error:
                door()
            assert message in str(error.value)
