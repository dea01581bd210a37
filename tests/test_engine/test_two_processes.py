"""Two ranks over gloo resume with the states of each rank."""

import os

from mobilevig_det.engine.hooks import durable_checkpoint
from mobilevig_det.engine.launch import leave_process_group

import pytest
import tiny_training as tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

DISTRIBUTED = dict(
    launcher='pytorch',
    env_cfg=dict(dist_cfg=dict(backend='gloo')),
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    ),
)


def one_process(rank, folder, kill, minutes, accumulate):
    torch.set_num_threads(1)  # OpenMP's other ones are lost in a fork
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    durable_checkpoint.CLOCK_INTERVAL = 4
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )

    def config(name):
        return tiny.config(f'{folder}/{name}', accumulate=accumulate, **DISTRIBUTED)

    whole = tiny.train(config('whole'))
    resumed = tiny.train_interrupted(lambda: config('killed'), kill, minutes)
    tiny.assert_equal(whole, resumed)
    with open(f'{folder}/equal{rank}', 'w') as file:
        file.write(os.path.basename(resumed.runner._load_from))
    leave_process_group()


@pytest.mark.parametrize(
    'kill, minutes, accumulate, resumed_from',
    [
        (dict(iter=13), 2, 1, 'epoch_2_iter_13.pth'),
        # Five iterations an epoch: three gradients wait over the first one's end.
        (dict(val=5), None, 4, 'epoch_1.pth'),
    ],
)
def test_interrupted_run_of_two_ranks_is_bit_identical(
    tmp_path, kill, minutes, accumulate, resumed_from
):
    mp.start_processes(
        one_process,
        (str(tmp_path), kill, minutes, accumulate),
        nprocs=2,
        start_method='fork',
    )
    for rank in range(2):
        assert (tmp_path / f'equal{rank}').read_text() == resumed_from


def test_another_number_of_ranks_is_reported_and_the_position_converted(tmp_path):
    tiny.train(tiny.config(tmp_path), dict(iter=14), minutes=4)
    path = tmp_path / 'epoch_1_iter_15.pth'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['training_state']['processes'] = 2
    # Two processes of 1 image each have as many batches; of 2 images, half.
    info = checkpoint['message_hub']['runtime_info']
    info['epoch_start'] = [1, 5, 5]
    checkpoint['meta']['iter'] = 8
    torch.save(checkpoint, path)
    cfg = tiny.config(tmp_path, epochs=2, resume=True, log_level='INFO')
    result = tiny.train(cfg)
    assert len(result.losses) == 10 - 6
    log = ''.join(file.read_text() for file in tmp_path.glob('*/*.log'))
    assert 'written by 2 process(es), and 1 resume' in log
    assert 'batch 3 of it became 6' in log
