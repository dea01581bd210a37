"""Training with every fast path on and off gives the same results, up to rounding."""

from mobilevig_det.config import load_config
from mobilevig_det.engine import CpuFastPathsHook, WinogradHook
from mobilevig_det.ops import cpu_fast_paths
from mobilevig_det.ops.cpu_fast_paths import WinogradConv2d

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

CHANNELS = 32  # of the heads, to be quick


class Losses(Hook):
    def __init__(self):
        self.found = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.found.append({k: float(v) for k, v in outputs.items()})


def narrow(cfg):
    model = cfg.model
    model.train_cfg.rcnn.sampler.num = 16
    model.train_cfg.rpn_proposal.max_per_img = 40
    model.neck.out_channels = CHANNELS
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        model.roi_head[name].out_channels = CHANNELS
    for name in ('bbox_head', 'mask_head'):
        model.roi_head[name].update(in_channels=CHANNELS, conv_out_channels=CHANNELS)


def ten_iterations(tmp_path, enabled):
    """Losses, the weights at the end, and the model in evaluation mode."""
    cfg = load_config('mobilevig_ti_fpn_shapes')
    narrow(cfg)
    cfg.work_dir = str(tmp_path / str(enabled))
    cfg.log_level, cfg.experiment_name = 'ERROR', f'fast_paths_{enabled}'
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 64)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
    # M's warm-up. At higher rates the rounding soon decides which of two boxes of
    # next to equal scores is a proposal, and then losses jump.
    cfg.param_scheduler = load_config('mobilevig_m_fpn_1x').param_scheduler[0]
    for split in ('val', 'test'):
        for name in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{name}'] = None
    hooks = cfg.default_hooks
    assert hooks.winograd.type == 'mobilevig_det.engine.CpuFastPathsHook'
    cfg.cpu_fast_paths = enabled
    assert hooks.runtime_info.type == 'mobilevig_det.engine.BoundedRuntimeInfoHook'
    load = cfg.train_dataloader.dataset.pipeline[1]
    assert load.type == 'mobilevig_det.datasets.loading.LoadCompactAnnotations'
    if not enabled:
        load.type, hooks.runtime_info.type = 'LoadAnnotations', 'RuntimeInfoHook'
    cfg.default_hooks = dict(
        winograd=hooks.winograd, runtime_info=hooks.runtime_info, checkpoint=None
    )
    runner = Runner.from_cfg(cfg)
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    return losses.found, runner.model.state_dict(), runner.model.eval()


def test_same_losses_weights_and_predictions(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setattr(cpu_fast_paths, 'FEWEST_CHANNELS', CHANNELS)
    monkeypatch.setattr(cpu_fast_paths, 'FEWEST_TILES', 1)
    losses, weights, model = ten_iterations(tmp_path, True)
    plain_losses, plain_weights, plain = ten_iterations(tmp_path, False)
    turned = [
        name for name, m in model.named_modules() if isinstance(m, WinogradConv2d)
    ]
    # FPN's four, RPN's, the box head's and two of the mask head.
    assert len(turned) == 8
    assert not any(isinstance(m, WinogradConv2d) for m in plain.modules())
    assert len(losses) == 10
    for found, want in zip(losses, plain_losses):
        assert found == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert list(weights) == list(plain_weights)

    plain.load_state_dict(weights)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for found, want in zip(model.extract_feat(images), plain.extract_feat(images)):
            assert (found - want).abs().max() <= 1e-5 * want.abs().max()


class Run:
    """As much of a Runner as the hook uses."""

    def __init__(self, **cfg):
        self.model, self.cfg = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1)), cfg

    @property
    def is_fast(self):
        return isinstance(self.model[0], WinogradConv2d)


@pytest.mark.parametrize(
    'cfg', [{}, {'cpu_fast_paths': True}, {'cpu_fast_paths': False}]
)
def test_one_key_of_the_config_is_the_switch(cfg):
    run = Run(**cfg)
    CpuFastPathsHook().before_run(run)
    assert run.is_fast == cfg.get('cpu_fast_paths', True)


@pytest.mark.parametrize('enabled', [True, False])
def test_deprecated_name_and_argument(enabled):
    run = Run()
    with pytest.warns(DeprecationWarning, match='use CpuFastPathsHook'):
        hook = HOOKS.build(dict(type='WinogradHook', enabled=enabled))
    assert isinstance(hook, WinogradHook)
    hook.before_run(run)
    assert run.is_fast == enabled
