"""Machines of a Ray cluster are taken away and come late, as spot instances do."""

import os
import signal
import subprocess
import sys
import time

import pytest
from inference_ways import TOOLS, descendants, rows, ways
from kill_inference import is_equal, make_images, make_model

pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
cluster_utils = pytest.importorskip('ray.cluster_utils')

IMAGES = 400
LONGEST = 900  # seconds to wait for anything


@pytest.fixture
def cluster(monkeypatch):
    """Its head, on which there is no place for a model."""
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '300')
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args=dict(num_cpus=0, object_store_memory=10**8)
    )
    yield cluster
    cluster.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=10**8)


def take_away(cluster, node):
    """The processes of a node, all at once; then what the cluster knows of it."""
    raylet = node.all_processes['raylet'][0].process.pid
    victims = descendants(raylet)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
    return [line for line in victims.values() if line.startswith('ray::MapWorker')]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_nodes_come_and_go(cluster, tmp_path):
    """The last one, which came late, has to do what the others didn't."""
    make_model(tmp_path / 'model')
    make_images(tmp_path / 'images', IMAGES)
    argv = [str(tmp_path / 'images'), '--score-thr', '0.4', '--batch-size', '1']
    argv += ['--checkpoint', str(tmp_path / 'model' / 'epoch_1.pth'), '--out-dir']
    run = [sys.executable, TOOLS / 'infer.py', '--no-save-vis', *argv]
    subprocess.run([*run, tmp_path / 'one'], capture_output=True)

    first, second = add_node(cluster), add_node(cluster)
    log = tmp_path / 'log.txt'
    with open(log, 'w') as file:
        run = [sys.executable, TOOLS / 'infer_ray.py', *argv, tmp_path / 'many']
        process = subprocess.Popen(
            [*run, '--address', cluster.address, '--block-size', '4'],
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def wait_for(files):
        end = time.monotonic() + LONGEST
        while len(list(tmp_path.glob('many/rows/*.parquet'))) < files:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    try:
        wait_for(10)
        assert take_away(cluster, first)
        wait_for(25)
        add_node(cluster)
        assert take_away(cluster, second)
        # Some of a hundred were left, so the late one has done them.
        assert len(list(tmp_path.glob('many/rows/*.parquet'))) < 60
        assert process.wait(LONGEST) == 1, log.read_text()
    finally:
        process.kill()
    assert 'says why' in log.read_text()

    expected = {
        row['image']: row for row in rows(ways()['one process'], tmp_path / 'one')
    }
    found = list(rows(ways()['Ray, two'], tmp_path / 'many'))
    assert len(expected) == len(found) == len({row['image'] for row in found}) == IMAGES
    for row in found:
        assert is_equal(row, expected[row['image']])
