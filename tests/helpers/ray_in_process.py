"""Run tools/infer_ray.py with its workers in this process instead of Ray's."""

import pytest


def run_workers_here(monkeypatch):
    """Replace Ray; returns a list that gets the blocks of each run."""
    pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
    import mobilevig_det.inference.ray_run
    from mobilevig_det.inference.detection_worker import DetectionWorker

    runs = []

    def run(blocks, job, *_):
        runs.append(blocks)
        worker = DetectionWorker(job)
        for block in blocks:
            worker(block)

    monkeypatch.setattr(mobilevig_det.inference.ray_run, 'run', run)
    return runs
