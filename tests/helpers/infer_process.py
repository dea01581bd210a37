"""tools/infer.py in a process of its own; a detector is that of plain_detector.py.

``python infer_process.py FLAGS…``; the process of the rank KILLED_RANK kills itself at
its image KILLED_AT.
"""

import os
import signal
import time

from mobilevig_det.inference import run
from mobilevig_det.inference.predictors import ClassificationPredictor

import tool
from plain_detector import PlainDetector


def stop(image):
    time.sleep(0.05)  # as a model's, so that both processes get some
    if os.environ.get('KILLED_RANK') == os.environ.get('RANK', '0'):
        stop.left -= 1
        if stop.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def load(cfg, checkpoint, device, score_thr):
    """The plain detector, or the classifier of the config."""
    if cfg.model.type == 'Plain':
        return PlainDetector(stop, score_thr=score_thr)
    predictor = load_predictor(cfg, checkpoint, device, score_thr)
    assert isinstance(predictor, ClassificationPredictor)
    predict_batch = predictor.predict_batch
    predictor.predict_batch = lambda batch, models=None: [
        found
        for prepared in batch
        if stop(prepared.source) is None
        for found in predict_batch([prepared], models)
    ]
    return predictor


if __name__ == '__main__':
    stop.left = int(os.environ.get('KILLED_AT', 0))
    load_predictor, run.load_predictor = run.load_predictor, load
    tool.load('infer').main()
