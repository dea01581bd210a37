"""Training commands that are killed at the end of a test."""

import pytest
from training_jobs import Job


@pytest.fixture
def start(tmp_path):
    jobs = []

    def start(settings, **kwargs):
        jobs.append(Job(tmp_path, settings, **kwargs))
        return jobs[-1]

    yield start
    for job in jobs:
        job.end()
