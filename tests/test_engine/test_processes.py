"""Several ranks over gloo: signals, dead and stalled ranks, restarts, results."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from mobilevig_det.cli.command import command
from mobilevig_det.engine.hooks import hang_watchdog
from mobilevig_det.engine.launch import leave_process_group

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.dataset import DefaultSampler
from training_jobs import position

pytestmark = pytest.mark.skipif(
    not hasattr(signal, 'sigtimedwait'), reason='needs the signals of Linux'
)


def torchrun(*flags):
    return (
        sys.executable,
        *('-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone'),
        *flags,
    )


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


@pytest.fixture
def start_two(start):
    """Without torchrun, which would end the other rank."""

    def start_two(settings):
        environ = dict(
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE='2'
        )
        return [
            start(settings, RANK=str(r), LOCAL_RANK=str(r), **environ) for r in (0, 1)
        ]

    return start_two


def is_running(pid):
    try:
        return (
            Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
        )
    except OSError:
        return False


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill_and_stops_on_sigterm(start, tmp_path):
    """Killed after seven iterations, of five an epoch: the checkpoint is the first
    epoch's."""
    job = start(
        dict(epochs=9, workers=1, slow=0.2, fail_at=7, watchdog=dict(seconds=10)),
        command=torchrun('--max-restarts=1'),
    )
    pids = [job.wait_for('iter_8.0'), job.wait_for('iter_8.1')]
    by = [int((tmp_path / f'iter_{i}.0').read_text()) for i in range(1, 9)]
    assert len(set(by)) == 2 and by[4] != by[5] == pids[0]
    began = time.monotonic()
    job.process.terminate()
    job.wait(30)
    assert not any(map(is_running, pids))
    assert time.monotonic() - began < 30  # where torchrun kills
    epoch, done = position(tmp_path)
    assert epoch == 1 and 8 <= done <= 10
    assert job.text().count('--resume') == 1


@pytest.mark.slow
def test_signal_to_one_rank_stops_both(start_two, tmp_path):
    jobs = start_two(dict(slow=0.2))
    jobs[1].wait_for('iter_2.1')
    jobs[1].process.terminate()
    assert [job.wait() for job in jobs] == [143, 143], jobs[0].text()
    assert position(tmp_path)[1] >= 2


def test_stalled_rank_ends_the_other(start_two):
    jobs = start_two(dict(slow=0.05, epochs=1000, watchdog=dict(seconds=3)))
    jobs[1].wait_for('iter_3.1')
    os.kill(jobs[1].process.pid, signal.SIGSTOP)
    assert jobs[0].wait(20) == 4, jobs[0].text()
    assert 'Process 0: iteration' in jobs[0].text()


@pytest.mark.parametrize(
    'name',
    ['epoch_2.pth', pytest.param('best_acc_epoch_1.pth', marks=pytest.mark.slow)],
)
def test_rank_that_stalls_while_writing_ends_the_other(start_two, name):
    """The duration of the first checkpoint limits that of the others."""
    jobs = start_two(dict(stop_in_write=name, watchdog=dict(seconds=2)))
    assert jobs[1].wait(60) == 4, jobs[1].text()
    assert 'its checkpoint is not after' in jobs[1].text()


@pytest.mark.slow
def test_signal_while_another_rank_stalls(start_two):
    jobs = start_two(dict(slow=0.05, epochs=1000, hook=dict(seconds=2)))
    jobs[1].wait_for('iter_3.1')
    os.kill(jobs[1].process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    jobs[0].process.terminate()
    assert jobs[0].wait(20) == 143
    assert 'ends without a new checkpoint' in jobs[0].text()


def train_and_evaluate(rank, folder):
    """Weights after steps on whole batches or a half of each; AP of an odd number of
    images. ``rank``: -1 alone."""
    if rank >= 0:
        torch.set_num_threads(1)  # OpenMP's other ones are lost in a fork
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
        )
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.GroupNorm(2, 4),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 2),
    ).double()
    images, labels = torch.randn(6, 8, 3, 4, 4).double(), torch.arange(8) % 2
    model, part = net, slice(None)
    if rank >= 0:
        model = torch.nn.parallel.DistributedDataParallel(net)
        part = slice(rank, None, 2)
    step = torch.optim.AdamW(net.parameters(), lr=0.01)
    for batch in images:
        step.zero_grad()
        torch.nn.functional.cross_entropy(model(batch[part]), labels[part]).backward()
        step.step()

    # Boxes near the true ones, some with a wrong class.
    annotations = folder / 'annotations.json'
    metric = CocoMetric(ann_file=str(annotations), metric='bbox')
    metric.dataset_meta = dict(classes=('circle', 'square', 'triangle'))
    truth = json.loads(annotations.read_text())
    for index in DefaultSampler(truth['images'], shuffle=False):
        image = truth['images'][index]
        torch.manual_seed(index)
        xywh = torch.tensor(
            [a['bbox'] for a in truth['annotations'] if a['image_id'] == image['id']],
            dtype=torch.float,
        )
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        boxes += torch.randn(boxes.shape) * 3
        instances = dict(
            bboxes=boxes,
            scores=torch.rand(len(boxes)),
            labels=torch.randint(0, 3, (len(boxes),)),
        )
        sample = dict(
            img_id=image['id'],
            ori_shape=(image['height'], image['width']),
            pred_instances=instances,
        )
        metric.process({}, [sample])
    with contextlib.redirect_stdout(io.StringIO()):
        scores = metric.evaluate(len(truth['images']))
    if rank <= 0:
        found = dict(weights=net.state_dict(), scores=scores)
        torch.save(found, folder / f'{rank}.pth')
    if rank >= 0:
        leave_process_group()


def many_objects():
    """Five images, an odd number, with twelve objects each."""
    images = [
        dict(id=3 * i, file_name=f'{i}.jpg', width=160, height=120) for i in range(5)
    ]
    boxes = [
        (image['id'], k, [10 * k, 8 * k, 20 + k, 15 + 2 * k])
        for image in images
        for k in range(12)
    ]
    objects = [
        dict(
            id=n, image_id=i, category_id=1 + k % 3, bbox=b, area=b[2] * b[3], iscrowd=0
        )
        for n, (i, k, b) in enumerate(boxes, 1)
    ]
    names = enumerate(('circle', 'square', 'triangle'), 1)
    return dict(
        images=images,
        annotations=objects,
        categories=[dict(id=i, name=name) for i, name in names],
    )


def test_two_ranks_give_the_weights_and_ap_of_one(tmp_path):
    """Weights of half batches, and AP of an odd number of images."""
    (tmp_path / 'annotations.json').write_text(json.dumps(many_objects()))
    train_and_evaluate(-1, tmp_path)
    torch.multiprocessing.start_processes(
        train_and_evaluate, (tmp_path,), nprocs=2, start_method='fork'
    )
    one, two = (torch.load(tmp_path / f'{r}.pth', weights_only=True) for r in (-1, 0))
    for name, value in one['weights'].items():
        torch.testing.assert_close(two['weights'][name], value, rtol=1e-10, atol=1e-10)
    assert two['scores'] == one['scores']
    assert 0 < one['scores']['coco/bbox_mAP'] < 1


def test_leaving_a_process_group_does_not_deadlock(tmp_path):
    """Else one of these rounds ends in a deadlock: gloo's threads get Python's lock
    only where the main thread waits. And no fork joins threads that it hasn't, whose
    atexit is cleared since Python 3.13."""
    program = """if True:
        import atexit
        import gc
        import multiprocessing
        import sys
        import torch
        from mobilevig_det.engine.launch import leave_process_group
        from torch import distributed
        gc.freeze()
        sys.setswitchinterval(1000)
        for i in range(100):
            path = f'file://{sys.argv[1]}/{i}'
            distributed.init_process_group('gloo', path, rank=0, world_size=1)
            net = torch.nn.Linear(1, 1)
            model = torch.nn.parallel.DistributedDataParallel(net)
            for _ in range(10):
                tensor = torch.ones(1000)
                work = distributed.broadcast(tensor, 0, async_op=True)
                work.wait()
                del tensor, work
            leave_process_group()
            del model
        fork = multiprocessing.get_context('fork').Process(target=atexit._clear)
        fork.start()
        fork.join()
        sys.exit(fork.exitcode)
    """
    subprocess.run([sys.executable, '-c', program, tmp_path], timeout=60, check=True)


class Dying(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_gives_one_message():
    @command(lambda argv: Namespace())
    def main(args):
        list(torch.utils.data.DataLoader(Dying(), num_workers=1))

    with pytest.raises(SystemExit, match='ran out of memory.*--resume.*pid'):
        main()


def test_exit_leaves_the_process_group(tmp_path):
    @command(lambda argv: Namespace())
    def main(args):
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1
        )
        sys.exit(143)

    with pytest.raises(SystemExit, match='143'):
        main()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    'saves, limit', [([], 600), ([1.0], 60), ([10.0, 1.0], 100), ([500.0], 600)]
)
def test_time_limit_of_a_checkpoint(monkeypatch, saves, limit):
    now = [0.0]
    monkeypatch.setattr(hang_watchdog.time, 'monotonic', lambda: now[0])
    hook = hang_watchdog.HangWatchdogHook()
    for seconds in saves:
        with hook.saving():
            now[0] += seconds
    hook.begin(60, 'not finished')
    now[0] += 5
    with hook.saving():
        assert hook._limit[1] == limit
        now[0] += 7
    # The time in between does not count.
    assert hook._limit == (now[0] + 55, 60, 'not finished')


def test_other_errors_are_raised():
    @command(lambda argv: Namespace())
    def main(args):
        raise RuntimeError('Caught RuntimeError in DataLoader worker process 0.')

    with pytest.raises(RuntimeError, match='Caught'):
        main()
