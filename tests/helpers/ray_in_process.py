"""Run the Ray executor with its workers in this process instead of Ray's."""

import pytest


def run_workers_here(monkeypatch, after_block=lambda: None):
    """Replace Ray; returns a list that gets the blocks of each run."""
    pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
    import mobilevig_det.inference.ray_executor
    from mobilevig_det.errors import UserError
    from mobilevig_det.inference.ray_executor import RayWorker

    runs = []

    def run(blocks, left, job, *_):
        runs.append(blocks)
        worker = RayWorker(job)
        for block in blocks:
            for row in worker(block).to_pylist():
                if row['refusal']:
                    raise UserError(row['refusal'])
            after_block()

    monkeypatch.setattr(mobilevig_det.inference.ray_executor, 'run', run)
    return runs
