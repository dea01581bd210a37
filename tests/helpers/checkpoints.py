"""Checkpoint files in the layouts that are published, made on the fly."""

import argparse
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

from mobilevig_det import MobileViG

import torch
from mmengine.runner import CheckpointLoader
from reference import golden_state_dict


def imagenet_checkpoint(arch='ti', averaged=True):
    """What the authors' ImageNet training writes. The averaged weights are
    the golden ones, the raw ones are all others."""
    golden = OrderedDict(golden_state_dict(arch))
    raw = OrderedDict(
        (k, v + 1 if v.is_floating_point() else v) for k, v in golden.items()
    )
    checkpoint = {
        'state_dict': raw if averaged else golden,
        'state_dict_ema': golden,
        'optimizer': {
            'state': {0: {'step': torch.tensor(3.0)}},
            'param_groups': [{'lr': 2e-3, 'params': [0]}],
        },
        'lr_scheduler': {'last_epoch': 299},
        'epoch': 299,
        'scaler': {'scale': 65536.0},
        'args': argparse.Namespace(model='mobilevig_ti', clip_grad=None),
    }
    if not averaged:
        del checkpoint['state_dict_ema']
    return checkpoint


def build(checkpoint, arch='ti', **kwargs):
    """MobileViG with the weights of a checkpoint."""
    model = MobileViG(
        arch, init_cfg=dict(type='Pretrained', checkpoint=checkpoint, **kwargs)
    )
    model.init_weights()
    return model.eval()


def coco_checkpoint(detector_weights, arch='ti', classes=('cat', 'dog')):
    """What the authors' COCO training (MMDetection 2.28) writes: the golden
    weights as the backbone's, the rest the detector's own."""
    weights = OrderedDict(
        (f'backbone.{key}', value)
        for key, value in golden_state_dict(arch).items()
        if not key.startswith(('prediction.', 'head.', 'dist_head.'))
    )
    weights.update(
        (key, value)
        for key, value in detector_weights.items()
        if not key.startswith('backbone.')
    )
    weights._metadata = OrderedDict({'': {'version': 1}})
    return {
        'meta': {
            'env_info': 'sys.platform: linux',
            'config': 'model = dict()',
            'seed': None,
            'exp_name': 'mask_rcnn.py',
            'epoch': 12,
            'iter': 175908,
            'mmdet_version': '2.28.1',
            'CLASSES': classes,
            'PALETTE': [(220, 20, 60)] * len(classes),
            'hook_msgs': {},
        },
        'state_dict': weights,
        'optimizer': {
            'state': {0: {'step': 175908, 'exp_avg': torch.zeros(3)}},
            'param_groups': [{'lr': 2e-6, 'params': [0]}],
        },
    }


class Hostile:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def run_tool(monkeypatch, name, *args):
    """Run tools/NAME.py here, importing torch and MMDetection once; what it
    changes for its process ends with the test.

    Returns the message that it ends with, or None.
    """
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    tool = Path(__file__).parents[2] / 'tools' / f'{name}.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except SystemExit as end:
        return end.code
