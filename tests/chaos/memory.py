"""Does resident memory grow over training iterations?

``PYTHONPATH=.:tests python tests/chaos/memory.py [--steps 2000]`` prints the slope:
KiB an iteration, by least squares over the last three quarters.
"""

import argparse
import os
import tempfile

import numpy as np
import tiny_training as tiny
from mmengine.hooks import Hook


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


def train(steps):
    measure = Measure()
    with tempfile.TemporaryDirectory() as folder:
        cfg = tiny.config(folder, iters=steps)
        cfg['default_hooks']['checkpoint']['interval'] = steps
        cfg['train_cfg']['val_interval'] = steps
        tiny.train(cfg, prepare=lambda runner: runner.register_hook(measure))
    return measure.kib


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=2000)
    steps = parser.parse_args().steps
    print(f'training: {slope(train(steps)):.2f} KiB an iteration, over {steps}')
