"""tools/infer.py in a process of its own; a detector is that of plain_detector.py.

``python infer_process.py FLAGS…``; the process of the rank KILLED_RANK kills itself at
its picture KILLED_AT.
"""

import os
import signal
import time

from mobilevig_det.cli import infer_run

import tool
from plain_detector import PlainDetector


def stop(picture):
    time.sleep(0.05)  # as a model's, so that both processes get some
    if os.environ.get('KILLED_RANK') == os.environ.get('RANK', '0'):
        stop.left -= 1
        if stop.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == '__main__':
    stop.left = int(os.environ.get('KILLED_AT', 0))
    module = infer_run
    module.load_detector = lambda *_: PlainDetector(stop)
    look_at = module.Classifier.look_at
    module.Classifier.look_at = lambda self, batch, model=None: [
        found
        for prepared in batch
        if stop(prepared.picture) is None
        for found in look_at(self, [prepared], model)
    ]
    tool.load('infer').main()
