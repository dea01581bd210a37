"""What a GPU does in a step, counted in events with a known answer."""

from benchmarks.device_activity import STEP, activity, measure_activity, trace
from benchmarks.tables import HEADER, table

import pytest
import torch


def event(cat, name, ts, dur):
    return dict(ph='X', cat=cat, name=name, ts=ts, dur=dur)


STEP_OF_1_MS = [
    dict(ph='M', name='process_name'),  # no time
    event('user_annotation', STEP, 1000, 1000),
    event('gpu_user_annotation', STEP, 1100, 1100),
    event('cpu_op', 'aten::item', 1500, 200),
    event('cpu_op', 'aten::_local_scalar_dense', 1501, 190),
    event('cpu_op', 'aten::nonzero', 1800, 50),
    *(
        event('cuda_runtime', name, 1010 + i, 1)
        for i, name in enumerate(
            (
                'cudaLaunchKernel',
                'cudaLaunchKernelExC',
                'cudaLaunchCooperativeKernel',
                'cudaGraphLaunch',
                'cudaMemcpyAsync',
                'cudaMemsetAsync',
                'cudaEventRecord',
                'cudaStreamIsCapturing',
            )
        )
    ),
    event('cuda_driver', 'cuLaunchKernel', 1030, 1),
    event('cuda_driver', 'cuLaunchKernelEx', 1031, 1),
    event('cuda_runtime', 'cudaStreamSynchronize', 1600, 90),
    event('cuda_runtime', 'cudaMemcpy', 1700, 10),
    event('cuda_runtime', 'cudaEventSynchronize', 1810, 10),
    # Before the step, and the wait for its end.
    event('cuda_runtime', 'cudaLaunchKernel', 990, 5),
    event('cuda_runtime', 'cudaDeviceSynchronize', 2000, 200),
    event('cpu_op', 'aten::nonzero', 900, 50),
    event('kernel', 'of the step before', 995, 50),
    # 1100 to 1200, of two streams; 1300 to 1310; 2050 to 2150.
    event('kernel', 'one', 1100, 60),
    event('kernel', 'another', 1150, 50),
    event('kernel', 'within it', 1160, 10),
    event('gpu_memcpy', 'Memcpy DtoH (Device -> Pageable)', 1300, 4),
    event('gpu_memset', 'Memset (Device)', 1304, 6),
    event('gpu_memcpy', 'Memcpy HtoD (Pinned -> Device)', 2050, 100),
]


def test_known_answer():
    found = activity(STEP_OF_1_MS)
    assert found.pop('busy') == pytest.approx(210e-6)
    assert found.pop('idle') == pytest.approx((1150 - 210) * 1e-6)
    assert found == dict(launches=6, waits=3, to_host=1, items=1, nonzeros=1)


def test_events_of_a_cpu():
    x = torch.tensor([1.0, 0, 2])

    def run():
        for _ in range(3):
            x.sum().item()
        assert x.any()
        return x[x > 0], x.nonzero()

    found = activity(trace(run, 'cpu'))
    assert 0 < found.pop('idle') < 60
    assert found == dict(
        launches=0, waits=0, to_host=0, items=4, nonzeros=2, busy=0
    )  # fmt: skip
    assert measure_activity(run, 'cpu') == {}


def test_columns():
    """Idle is of the time without a profiler."""
    row = dict(part='p', size='s', name='n', seconds=[0.002], activity={})
    seen = dict(launches=7, waits=3, to_host=1, items=2, nonzeros=1, busy=0.0005)
    rows = [row, dict(row, activity=seen), dict(row, activity=dict(seen, busy=1))]
    lines = table(dict(rows=rows, batch_size=1))
    assert all(len(line) == len(HEADER) for line in lines)
    first = HEADER.index('launches')
    assert [line[first:] for line in lines] == [
        ('', '', ''),
        ('7', '3 (item 2, nonzero 1)', '75%'),
        ('7', '3 (item 2, nonzero 1)', '0%'),
    ]
