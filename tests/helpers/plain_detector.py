"""A detector without a network, in place of the loaded one: what it finds follows from
the pixels, at once."""

import os
from pathlib import Path

from mobilevig_det.inference.predictors import Predictor, Prepared
from mobilevig_det.inference.results import Detections

import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import nn

CLASSES = ('circle', 'square', 'triangle')
CONFIG = """
model = dict(type='Plain', depth=1, test_cfg=dict(score_thr=0.05))
test_dataloader = dict(dataset=dict(
    type='mmdet.CocoDataset', data_root={root!r}, ann_file='test.json',
    data_prefix=dict(img='images/'), pipeline=[dict(type='mmdet.PackDetInputs')]))
"""


def make_plain_model(folder):
    """A work directory in this one, as far as the commands look into it."""
    os.mkdir(folder)
    Path(folder, 'config.py').write_text(CONFIG.format(root=os.getcwd()))
    Path(folder, 'epoch_1.pth').write_bytes(b'weights')


class PlainDetector(Predictor):
    """As a real predictor for its callers: images of one size share a batch, and so
    are finished in another order than they come in.

    ``stop`` is called with each image before it is predicted.
    """

    _kind = Detections

    def __init__(self, stop=lambda image: None, masks=True, score_thr=0.0):
        model = nn.Identity()
        model.data_preprocessor = None
        super().__init__(model, self._to_tensor, CLASSES, score_thr)
        self.stop, self.masks = stop, masks
        self.seen = []

    def _to_tensor(self, data):
        if min(data['img'].shape[:2]) == 1:
            raise ValueError('it is a line')
        return dict(inputs=torch.from_numpy(data['img']).permute(2, 0, 1))

    def predict_batch(self, batch, models=None):
        return [self.find(prepared) for prepared in batch]

    def find(self, prepared):
        self.stop(prepared.source)
        self.seen.append(prepared.source.name)
        pixels = prepared.pixels
        height, width = pixels.shape[:2]
        random = np.random.default_rng(int(pixels.sum()))
        count = int(random.integers(0, 6))
        corners = random.random((count, 4), np.float32) * [width, height, width, height]
        boxes = np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])
        scores = np.sort(random.random(count, np.float32))[::-1]
        found = Detections(
            prepared.source,
            CLASSES,
            height,
            width,
            scores,
            random.integers(0, 3, count),
            pixels=pixels,
            boxes=boxes.astype(np.float32),
        )
        if self.masks:
            masks = random.random((count, height, width)) > 0.5
            found.rles = [encoded(mask) for mask in masks]
        return found.filter(self.score_thr)

    def __call__(self, source):
        """The result of one image."""
        prepared = self.prepare(source)
        return self.find(prepared) if isinstance(prepared, Prepared) else prepared


def encoded(mask):
    """COCO's RLE, by pycocotools."""
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=list(mask.shape), counts=rle['counts'].decode())
