"""tools/infer_ray.py with its worker in this process, where Ray would start others."""

import pytest


def work_here(monkeypatch):
    """Gives the blocks of each run."""
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
