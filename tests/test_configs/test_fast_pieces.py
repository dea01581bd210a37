"""docs/speed.md: switched off, the recipe computes the same."""

import copy
import os

from mobilevig_det.config import load_config
from mobilevig_det.datasets.loading import CompactBitmapMasks

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

COMPACT = 'mobilevig_det.datasets.loading.LoadCompactAnnotations'


def ten_losses(cfg):
    """Through a worker, and what kind of masks came out of it."""
    init_default_scope('mmdet')
    set_random_seed(0)
    cfg = copy.deepcopy(cfg)
    model = MODELS.build(cfg.model)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses, kinds, batches = [], set(), iter(())
    for _ in range(10):
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        data = model.data_preprocessor(batch, True)
        kinds |= {type(sample.gt_instances.masks) for sample in data['data_samples']}
        loss, terms = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append({name: float(value) for name, value in terms.items()})
    return losses, kinds


def test_same_losses(shapes_root, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = load_config('mobilevig_ti_fpn_shapes')
    loader = cfg.train_dataloader
    loader.batch_size = 2
    loader.dataset.pipeline[2].scale = (64, 64)
    on, kinds = ten_losses(cfg)
    assert kinds == {CompactBitmapMasks}
    cfg.merge_from_dict({'train_dataloader.dataset.pipeline.1.type': 'LoadAnnotations'})
    off, kinds = ten_losses(cfg)
    assert kinds == {BitmapMasks}
    assert on == off
    assert all(0 < terms['loss_mask'] < 10 for terms in on)


@pytest.mark.parametrize(
    'name', ['mobilevig_m_fpn_1x', 'mobilevig_m_fpn_ms-3x', 'mobilevig_ti_fpn_shapes']
)
def test_in_the_configs(name):
    cfg = load_config(name)
    for split in ('train', 'val', 'test'):
        steps = [s.type for s in cfg[f'{split}_dataloader'].dataset.pipeline]
        assert COMPACT in steps and 'LoadAnnotations' not in steps


@pytest.mark.parametrize('processes, workers', [(None, 6), ('2', 3), ('8', 1)])
def test_workers_by_the_machine(processes, workers, monkeypatch):
    monkeypatch.setattr(os, 'cpu_count', lambda: 6)
    if processes:
        monkeypatch.setenv('LOCAL_WORLD_SIZE', processes)
    else:
        monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    for name in ('mobilevig_m_fpn_1x', 'retinanet_mobilevig_m_fpn_1x'):
        cfg = load_config(name)
        assert cfg.train_dataloader.num_workers == workers
        assert cfg.model.data_preprocessor.non_blocking
