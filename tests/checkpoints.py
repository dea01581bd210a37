"""Checkpoint files in the layouts that are published, made on the fly."""
import argparse
from collections import OrderedDict

import torch
from reference import golden_state_dict


def imagenet_checkpoint(arch='ti', averaged=True):
    """What the authors' ImageNet training writes. The averaged weights are
    the golden ones, the raw ones are all others."""
    golden = OrderedDict(golden_state_dict(arch))
    raw = OrderedDict((k, v + 1 if v.is_floating_point() else v)
                      for k, v in golden.items())  # yapf: disable
    checkpoint = {
        'state_dict': raw if averaged else golden,
        'state_dict_ema': golden,
        'optimizer': {'state': {0: {'step': torch.tensor(3.)}},
                      'param_groups': [{'lr': 2e-3, 'params': [0]}]},
        'lr_scheduler': {'last_epoch': 299},
        'epoch': 299,
        'scaler': {'scale': 65536.0},
        'args': argparse.Namespace(model='mobilevig_ti', clip_grad=None),
    }  # yapf: disable
    if not averaged:
        del checkpoint['state_dict_ema']
    return checkpoint
