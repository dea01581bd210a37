"""Configs beyond the authors' recipe, against those that they stand on."""

from mobilevig_det.config import load_config
from mobilevig_det.datasets.data_paths import leaf_datasets

import pytest
from mmdet.registry import DATASETS, MODELS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from test_configs import one_batch

RETINANET = 'retinanet_mobilevig_m_fpn_1x'
MULTI_SCALE = 'mobilevig_m_fpn_ms-3x'


@pytest.fixture
def coco_root(monkeypatch, shapes_root):
    """The generated set, in the place and under the names of COCO's."""

    def place(cfg):
        for split in ('train', 'val', 'test'):
            for dataset in leaf_datasets(cfg[f'{split}_dataloader'].dataset):
                name = 'train' if split == 'train' else 'val'
                assert dataset.data_root == f'{shapes_root}/'
                assert dataset.ann_file.endswith(f'instances_{name}2017.json')
                dataset.ann_file = f'annotations/instances_{name}.json'
                dataset.data_prefix = dict(img=f'{name}/')
                dataset.metainfo = dict(classes=('circle', 'square', 'triangle'))
        for split in ('val', 'test'):
            assert cfg[f'{split}_evaluator'].ann_file == (
                f'{shapes_root}/annotations/instances_val2017.json'
            )
        return cfg

    init_default_scope('mmdet')
    monkeypatch.setenv('COCO_ROOT', str(shapes_root))
    return place


def test_multi_scale(coco_root):
    cfg, base = map(load_config, (MULTI_SCALE, 'mobilevig_m_fpn_1x'))
    assert cfg.model == base.model  # whose loss has a test of its own
    assert cfg.optim_wrapper == base.optim_wrapper
    assert cfg.auto_scale_lr == base.auto_scale_lr
    # Three times as long.
    warm_up, steps = cfg.param_scheduler
    assert warm_up == base.param_scheduler[0]
    assert cfg.train_cfg.max_epochs == steps.end == 36
    published = get_config('mmdet::common/ms_3x_coco-instance.py')
    times = published.train_dataloader.dataset.times
    assert steps.milestones == [
        times * epoch for epoch in published.param_scheduler[1].milestones
    ]
    # What the pipeline really makes of an image.
    dataset = DATASETS.build(coco_root(cfg).train_dataloader.dataset)
    sides = {min(dataset[i % len(dataset)]['inputs'].shape[1:]) for i in range(16)}
    assert len(sides) > 4 and 640 <= min(sides) and max(sides) <= 800
    sample = dataset[0]['data_samples']
    height, width = sample.img_shape
    masks = sample.gt_instances.masks
    assert (masks.height, masks.width) == (height, width)


def test_retinanet(coco_root):
    cfg = load_config(RETINANET)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train()
    assert type(model).__name__ == 'RetinaNet'
    losses = model(**model.data_preprocessor(one_batch(), True), mode='loss')
    loss, log = model.parse_losses(losses)
    assert set(log) == {'loss', 'loss_cls', 'loss_bbox'}
    assert all(value.isfinite().all() for value in log.values())
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key

    # Boxes only, all else as MMDetection has it.
    cfg = coco_root(cfg)
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'
    for split in ('train', 'val'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        sample = dataset[0]['data_samples']
        assert 'masks' not in sample.gt_instances
        assert len(sample.gt_instances.bboxes) > 0
    published = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    for key in ('train_pipeline', 'test_pipeline'):
        assert [
            (step['type'], step.get('scale'), step.get('prob')) for step in cfg[key]
        ] == [
            (step['type'], step.get('scale'), step.get('prob'))
            for step in published[key]
        ]
