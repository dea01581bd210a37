"""The configs against what the authors ran: their two training logs and the
settings in them. No model is trained."""

import copy
from types import SimpleNamespace

from mobilevig_det.config import load_config
from reproduction.config_metrics import ITERATIONS, learning_rates, logged_rates

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from reference import ARCHS, golden_state_dict
from torch.nn.modules.batchnorm import BatchNorm2d, _BatchNorm

EPOCHS = 12


@pytest.fixture(scope='module')
def configs():
    init_default_scope('mmdet')
    return {arch: load_config(f'mobilevig_{arch}_fpn_1x') for arch in ARCHS}


@pytest.fixture(scope='module')
def detectors(configs):
    return {
        # A copy, because some versions of MMDetection change what they build.
        arch: MODELS.build(copy.deepcopy(cfg.model))
        for arch, cfg in configs.items()
        if arch in 'mb'
    }


@pytest.mark.parametrize('arch', ['m', 'b'])
def test_rate_of_every_logged_iteration(configs, arch):
    found = list(learning_rates(configs[arch]))
    assert len(found) == EPOCHS * ITERATIONS
    rows = logged_rates(arch)
    assert len(rows) == 3516
    for row in rows:
        # A row is printed after the iteration of that number, from 1.
        i = (int(row['epoch']) - 1) * ITERATIONS + int(row['iter']) - 1
        assert f'{found[i]:.3e}' == row['lr'], row
    for i in range(500):  # between the rows, to the last digits
        expected = 2e-4 * (1 - (1 - i / 500) * (1 - 1e-6))
        assert found[i] == pytest.approx(expected, rel=1e-9), i
    assert found[500] == pytest.approx(2e-4, rel=1e-9)


@pytest.mark.parametrize('arch, weight_decay', [('m', 0.05), ('b', 0.0001)])
def test_optimizer(configs, detectors, arch, weight_decay):
    model = detectors[arch]
    wrapper = build_optim_wrapper(model, configs[arch].optim_wrapper)
    assert type(wrapper).__name__ == 'OptimWrapper'
    assert wrapper.clip_grad_kwargs is None
    assert wrapper._accumulative_counts == 1
    optimizer = wrapper.optimizer
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert group['lr'] == 2e-4
        assert group['betas'] == (0.9, 0.999)
        assert group['eps'] == 1e-8
        assert group['weight_decay'] == weight_decay
        assert not group['amsgrad']
    # Every parameter decays, and every one is trained: none is frozen.
    optimized = [p for g in optimizer.param_groups for p in g['params']]
    assert len(optimized) == len(set(map(id, optimized)))
    assert set(map(id, optimized)) == set(map(id, model.parameters()))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('arch', ARCHS)
def test_schedule_and_batch(configs, arch):
    cfg = configs[arch]
    assert cfg.train_cfg.type == 'mobilevig_det.engine.ResumableEpochTrainLoop'
    assert cfg.train_cfg.max_epochs == EPOCHS
    assert cfg.train_cfg.val_interval == 1
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 8
    assert not cfg.auto_scale_lr.get('enable')
    # Ti and S: no run of theirs was published, the recipe is M's.
    if arch in ('ti', 's'):
        for key in (
            'optim_wrapper',
            'param_scheduler',
            'train_dataloader',
            'sync_bn',
            'auto_scale_lr',
        ):
            assert cfg[key] == configs['m'][key]


@pytest.mark.parametrize('arch', ARCHS)
def test_images(configs, arch):
    """1333 x 800 keeping the ratio, flipped half of the time, normalised,
    padded to 32; no other augmentation."""
    cfg = configs[arch]
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb
    assert preprocessor.pad_size_divisor == 32
    assert preprocessor.non_blocking
    assert cfg.train_dataloader.pin_memory == torch.cuda.is_available()
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline] == [
        'LoadImageFromFile',
        'mobilevig_det.datasets.loading.LoadCompactAnnotations',
        'Resize',
        'RandomFlip',
        'PackDetInputs',
    ]
    assert pipeline[2].scale == (1333, 800) and pipeline[2].keep_ratio
    assert pipeline[3].prob == 0.5
    assert cfg.train_dataloader.dataset.filter_cfg == dict(
        filter_empty_gt=True, min_size=32
    )
    tested = cfg.test_dataloader.dataset.pipeline
    assert [step.type for step in tested] == [
        'LoadImageFromFile',
        'Resize',
        'mobilevig_det.datasets.loading.LoadCompactAnnotations',
        'PackDetInputs',
    ]
    assert tested[1].scale == (1333, 800) and tested[1].keep_ratio
    assert cfg.test_evaluator.metric == ['bbox', 'segm']


@pytest.mark.parametrize('arch', ARCHS)
def test_rest_is_mask_rcnn_r50(configs, arch):
    """Heads and test settings are MMDetection's, key for key."""
    model = configs[arch].model.to_dict()
    standard = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    standard = standard.model.to_dict()
    standard['data_preprocessor']['non_blocking'] = True  # as fast as it can be
    backbone = model.pop('backbone')
    model.pop('_scope_', None)  # MMEngine notes where it inherited from
    standard.pop('backbone')
    channels = model['neck'].pop('in_channels')
    standard['neck'].pop('in_channels')
    assert model == standard
    assert (model['neck']['out_channels'], model['neck']['num_outs']) == (256, 5)
    assert model['test_cfg']['rcnn'] == dict(
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
        mask_thr_binary=0.5,
    )
    backbone_class = MODELS.get('MobileViG')
    assert channels == backbone_class.out_channels(arch)
    assert backbone['arch'] == arch
    assert backbone['init_cfg'] == dict(
        type='Pretrained', checkpoint=f'mobilevig://{arch}'
    )


@pytest.mark.parametrize('arch', ['m', 'b'])
def test_drop_path_as_in_the_runs(detectors, arch):
    rates = [
        module.drop_prob
        for name, module in detectors[arch].named_modules()
        if name.endswith('drop_path') and '.ffn.' not in name
    ]
    assert rates == pytest.approx(torch.linspace(0, 0.1, len(rates)).tolist())
    assert len(rates) == dict(m=18, b=30)[arch]


def wrapped(cfg, model, distributed):
    """The model as MMEngine's Runner would train it, but for the last step
    (DistributedDataParallel, which refuses SyncBN without a GPU)."""
    runner = SimpleNamespace(
        cfg=cfg, distributed=distributed, logger=MMLogger('recipe')
    )
    return Runner.wrap_model(runner, dict(type='NoWrapper'), model).train()


@pytest.fixture
def no_wrapper(monkeypatch):
    from mmengine.registry import MODEL_WRAPPERS

    monkeypatch.setitem(MODEL_WRAPPERS.module_dict, 'NoWrapper', NoWrapper)


class NoWrapper:
    def __new__(cls, module):
        return module


@pytest.mark.parametrize('arch', ['m', 'b'])
def test_batch_norm(configs, arch, no_wrapper):
    """Batch statistics, trained; over all GPUs under a launcher."""
    model = dict(configs[arch].model.backbone)
    for distributed, expected in ((True, torch.nn.SyncBatchNorm), (False, BatchNorm2d)):
        backbone = wrapped(configs[arch], MODELS.build(model), distributed)
        norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
        assert len(norms) == sum(
            key.endswith('running_mean') and 'prediction' not in key
            for key in golden_state_dict(arch)
        )
        for norm in norms:
            assert type(norm) is expected
            assert norm.training and norm.track_running_stats
            assert norm.momentum == 0.1 and norm.eps == 1e-5
            assert norm.weight.requires_grad and norm.bias.requires_grad
