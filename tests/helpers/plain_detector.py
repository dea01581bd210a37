"""A detector without a network, in place of tools/infer.py's own: what it finds follows
from the pixels, at once."""

import os
from pathlib import Path

from mobilevig_det.inference.inferencer import (
    Inferencer,
    NoPicture,
    Prediction,
    Prepared,
)

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

CLASSES = ('circle', 'square', 'triangle')
CONFIG = """
model = dict(type='Plain', depth=1, test_cfg=dict(score_thr=0.05))
visualizer = dict()
test_dataloader = dict(dataset=dict(
    type='mmdet.CocoDataset', data_root={root!r}, ann_file='test.json',
    data_prefix=dict(img='images/'), pipeline=[dict(type='mmdet.PackDetInputs')]))
"""


def make_plain_model(folder):
    """A folder of a run of tools/train.py, in this one, as far as tools/infer.py
    looks."""
    os.mkdir(folder)
    Path(folder, 'config.py').write_text(CONFIG.format(root=os.getcwd()))
    Path(folder, 'epoch_1.pth').write_bytes(b'weights')


class PlainDetector:
    """As ``Inferencer`` for who calls it: pictures of one size share a batch, and so
    leave in another order than they come in.

    ``stop`` is called with each picture before it is looked at.
    """

    classes = CLASSES
    model = nn.Identity()
    no_videos = None
    predict = Inferencer.predict

    def __init__(self, stop=lambda picture: None, masks=True):
        self.stop, self.masks = stop, masks
        self.seen = []

    def prepare(self, picture):
        if min(picture.image.shape[:2]) == 1:
            return NoPicture(picture, 'it is a line')
        data = dict(inputs=torch.from_numpy(picture.image).permute(2, 0, 1))
        return Prepared(picture, data, None, picture.image.shape)

    def look_at(self, batch, model=None):
        return [self.find(prepared.picture) for prepared in batch]

    def find(self, picture):
        self.stop(picture)
        self.seen.append(picture.name)
        height, width = picture.image.shape[:2]
        random = np.random.default_rng(int(picture.image.sum()))
        count = int(random.integers(0, 6))
        corners = random.random((count, 4), np.float32) * [width, height, width, height]
        boxes = np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])
        found = InstanceData(
            bboxes=torch.from_numpy(boxes.astype(np.float32)),
            scores=torch.from_numpy(random.random(count, np.float32)),
            labels=torch.from_numpy(random.integers(0, 3, count)),
        )
        if self.masks:
            found.masks = torch.from_numpy(random.random((count, height, width)) > 0.5)
        sample = DetDataSample()
        sample.pred_instances = found
        return Prediction(picture, sample, picture.image, (1.0, 1.0))

    def draw(self, prediction, score_thr):
        return prediction.picture.image[::-1].copy()
