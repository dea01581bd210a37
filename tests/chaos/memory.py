"""Does resident memory grow over training iterations, and over inferred images?

``PYTHONPATH=.:tests/helpers python tests/chaos/memory.py [--steps 2000]``
prints the slopes: KiB a step, by least squares over the last three quarters.
"""

import argparse
import os
import tempfile
from pathlib import Path

from mobilevig_det import Detector

import numpy as np
import tiny_detector
import tiny_training as tiny
from mmengine.hooks import Hook
from tqdm import trange


def resident_kib():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1024


def slope(kib):
    """KiB a step, after a quarter to warm up."""
    kept = kib[len(kib) // 4 :]
    return np.polyfit(np.arange(len(kept)), kept, 1)[0]


class Measure(Hook):
    def __init__(self):
        self.kib = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kib.append(resident_kib())
        for hook in runner.hooks:
            if isinstance(hook, tiny.Record):  # the tests', which keeps all it saw
                hook.losses.clear()
                hook.batches.clear()


def train(steps):
    measure = Measure()
    with tempfile.TemporaryDirectory() as folder:
        cfg = tiny.config(folder, iters=steps)
        cfg['default_hooks']['checkpoint']['interval'] = steps
        cfg['train_cfg']['val_interval'] = steps
        tiny.train(cfg, prepare=lambda runner: runner.register_hook(measure))
    return measure.kib


def infer(steps):
    """Of a small detector, on images of many sizes, with pictures drawn."""
    kib, random = [], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'detector'
        tiny_detector.make(folder)
        detector = Detector(folder, device='cpu')
        for _ in trange(steps, desc='Inferring'):
            height, width = random.integers(32, 160, 2)
            image = random.integers(0, 256, (height, width, 3), np.uint8)
            detector(image).draw()
            kib.append(resident_kib())
    return kib


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=2000)
    steps = parser.parse_args().steps
    print(f'training: {slope(train(steps)):.2f} KiB an iteration, over {steps}')
    print(f'inference: {slope(infer(steps)):.2f} KiB an image, over {steps}')
