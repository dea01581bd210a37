"""Train and validate on the shapes data set, on the CPU and on a fake device.

``python fake_device_run.py WORK_DIR DEVICE...`` prints the results as a line of JSON.
Devices are 'cpu', 'fakegpu' and 'fakegpu with torchvision', in this order.
"""

import json
import sys

from mobilevig_det.config import load_config
from mobilevig_det.mmcv_ops import mmcv_ext, nms, roi_align

import fake_device
import mmengine.runner.runner as runner_module
import torch
from fake_device import FakeDevice, FakeDeviceTensor
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

# These take seconds.
runner_module.collect_env = dict
runner_module.get_git_hash = str
Config.pretty_text = ''


class Torchvision:
    """Operators of torch.ops.torchvision, which don't wait on CUDA."""

    def nms(self, boxes, scores, threshold):
        return FakeDeviceTensor(nms.nms(boxes.value, scores.value, threshold, 0))

    def roi_align(self, x, rois, scale, height, width, ratio, aligned):
        out = x.value.new_zeros(len(rois), x.shape[1], height, width)
        roi_align.roi_align_forward(
            x.value, rois.value, out, out, out, height, width, scale, ratio, 1, aligned
        )
        return FakeDeviceTensor(out)

    def _roi_align_backward(
        self, grad, rois, scale, height, width, b, c, h, w, ratio, aligned
    ):
        out = grad.value.new_zeros(b, c, h, w)
        roi_align.roi_align_backward(
            grad.value, rois.value, out, out, out, height, width, scale, ratio, 1,
            aligned,
        )  # fmt: skip
        return FakeDeviceTensor(out)


PROGRAMS = (
    'x + 1', 'x + torch.tensor(1.0)', 'x.new_zeros(3)', 'x.view(2, 2).t().add_(1)',
    'x.exp().sum().backward()',
    # Operations on two devices:
    'x * torch.ones(4)', 'torch.cat([x, torch.ones(1)])', 'torch.stack([x, x.cpu()])',
    # Operations that wait:
    'x.sum().item()', 'bool(x.any())', 'x.nonzero()', 'x[x > 1]', 'x[[0, 1]]',
    'x.cpu()', 'x.tolist()', 'torch.ones(4).to(x)', 'x.unique()',
    'torch.tensor([1], device=x.device)',
)  # fmt: skip


def try_device():
    """Return for each program whether it mixes devices, and what it waits for."""
    found = {}
    mode = FakeDevice()
    with mode:
        for program in PROGRAMS:
            x = torch.arange(4.0, device='fakegpu').requires_grad_('back' in program)
            mode.waits.clear()
            try:
                eval(program)
                failed = False
            except RuntimeError as error:
                failed = 'tensors of two devices' in str(error)
            found[program] = failed, [key.split(':')[0] for key in mode.waits]
        assert x.device.type == 'fakegpu'
    return found


class Watch(Hook):
    """Record the losses, and the waits in training and in validation."""

    priority = 'NORMAL'  # before the logger reads the losses

    def __init__(self, waits):
        self.waits = waits
        self.found = dict(losses=[])

    def before_train_epoch(self, runner):
        self.waits.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        waits = self.waits.copy()
        self.found['losses'].append(float(outputs['loss']))
        self.waits.clear()
        self.waits.update(waits)
        self.found['training'] = dict(waits)

    def before_val_epoch(self, runner):
        self.waits.clear()

    def after_val_epoch(self, runner, metrics=None):
        self.found['validation'] = dict(self.waits)
        self.found['metrics'] = metrics


def run(device, folder):
    cfg = load_config('mobilevig_ti_fpn_shapes')
    cfg.work_dir = cfg.experiment_name = folder
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 4
    cfg.train_dataloader.dataset.pipeline[2].scale = (64, 64)
    cfg.optim_wrapper.pop('clip_grad', None)  # the recipe has no clipping, which waits
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.save_best = None
    cfg.log_level = 'ERROR'
    cfg.randomness = dict(seed=0)
    runner_module.get_device = lambda: device
    mode = FakeDevice()
    with mode:
        runner = Runner.from_cfg(cfg)
        watch = Watch(mode.waits)
        runner.register_hook(watch)
        runner.train()
    assert {p.device.type for p in runner.model.parameters()} == {device}
    return watch.found


if __name__ == '__main__':
    folder, *devices = sys.argv[1:]
    torch.set_num_threads(1)
    fake_device.register()
    found = dict(device=try_device())
    for device in devices:
        if 'torchvision' in device:
            mmcv_ext.has_torchvision = lambda tensor: isinstance(
                tensor, FakeDeviceTensor
            )
            mmcv_ext.torchvision_ops = Torchvision
        found[device] = run(device.split()[0], f'{folder}/{device}')
    print('\n' + json.dumps(found))
