"""docs/scaling.md: what its commands do, and what that does to the recipe."""

import os
import re
import shlex
import socket
import subprocess
import sys
from types import SimpleNamespace

from mobilevig_det.config import load_config

import pytest
import torch
from markdown_pages import code_blocks
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from tool import TOOLS, load

PAGE = 'scaling.md'
CONFIG = 'configs/mask_rcnn/mobilevig_m_fpn_1x.py'


def arguments(command):
    """What tools/train.py makes of a printed command."""
    words = shlex.split(command.replace('$CONFIG', CONFIG))
    if 'tools/train.py' in words:
        argv = words[words.index('tools/train.py') + 1 :]
    else:
        config, processes, *more = words[words.index('tools/dist_train.sh') + 1 :]
        assert int(processes) > 0
        argv = [config, '--launcher', 'pytorch', *more]
    return load('train').parse_args(argv)


def test_training_commands_parse():
    blocks = [c for c in code_blocks(PAGE, 'bash') if 'tools/infer_ray.py' not in c]
    launchers = {arguments(c).launcher for c in blocks}
    assert launchers == {'none', 'pytorch', 'slurm'}


def test_ray_commands_parse():
    (block,) = (c for c in code_blocks(PAGE, 'bash') if 'tools/infer_ray.py' in c)
    for command in block.strip().splitlines():
        program, script, *argv = shlex.split(command)
        if program == 'python':
            assert script == 'tools/infer_ray.py'
            load('predict').parse_args(['--executor', 'ray', *argv])


@pytest.mark.slow
def test_two_processes(tmp_path, shapes_root):
    """Two processes over gloo: each takes half of the 8 images, so that an
    epoch is one step of 2 x 4, and the rate is that of 8."""
    (tmp_path / 'tools').symlink_to(TOOLS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    (command,) = (c for c in code_blocks(PAGE, 'bash') if '_shapes' in c)
    work_dir = re.search(r'--work-dir (\S+)', command)[1]
    done = subprocess.run(
        command.strip() + ' --auto-scale-lr --cfg-options '
        'train_cfg.max_epochs=1 train_cfg.val_interval=1 '
        'train_dataloader.num_workers=0 val_dataloader.num_workers=0 '
        'train_dataloader.persistent_workers=False '
        'val_dataloader.persistent_workers=False '
        'train_dataloader.dataset.pipeline.2.scale="(64,64)" '
        'val_dataloader.dataset.pipeline.1.scale="(64,64)"',
        shell=True,
        cwd=tmp_path,
        env=dict(
            os.environ,
            SHAPES_ROOT=str(shapes_root),
            PYTHON=sys.executable,
            PYTHONPATH=os.pathsep.join([str(TOOLS.parent), *sys.path]),
            PORT=str(port),
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'gloo' in done.stdout  # the warning of the page
    saved = torch.load(tmp_path / work_dir / 'epoch_1.pth', weights_only=True)
    assert saved['meta']['iter'] == 1
    base = load_config('mobilevig_ti_fpn_shapes')
    (group,) = saved['optimizer']['param_groups']
    assert group['initial_lr'] == pytest.approx(base.optim_wrapper.optimizer.lr * 2)
    # Evaluated together: each image once.
    assert 'coco/segm_mAP' in done.stdout


def scaled_rate(cfg, processes):
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)
    runner = SimpleNamespace(
        _train_dataloader=cfg.train_dataloader,
        world_size=processes,
        logger=MMLogger.get_current_instance(),
        param_schedulers=None,
    )
    Runner.scale_lr(runner, wrapper, dict(cfg.auto_scale_lr, enable=True))
    return wrapper.get_lr()['lr'][0]


@pytest.mark.parametrize('gpus, images', [(1, 2), (4, 2), (8, 4)])
def test_learning_rate_scales_with_the_batch_size(gpus, images):
    cfg = load_config(CONFIG, {'train_dataloader.batch_size': images})
    expected = cfg.optim_wrapper.optimizer.lr * gpus * images / 8
    assert scaled_rate(cfg, gpus) == pytest.approx(expected)


def test_accumulation_is_a_step_of_the_whole_batch():
    """Four times two images, as the page has it, and once eight."""
    (command,) = (c for c in code_blocks(PAGE, 'bash') if 'accumulative' in c)
    options = arguments(command).cfg_options
    images = torch.randn(8, 3, generator=torch.manual_seed(0))

    def steps(cfg, batch_size):
        """The weights after each iteration."""
        model = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        wrapper.initialize_count_status(model, 0, 8 // batch_size)
        for batch in images.split(batch_size):
            wrapper.update_params(model(batch).square().mean())
            yield model.weight.detach().clone()

    accumulated = list(steps(load_config(CONFIG, options), 2))
    (at_once,) = steps(load_config(CONFIG), 8)
    start = torch.ones(1, 3)
    for weight in accumulated[:3]:
        assert torch.equal(weight, start)
    assert not torch.equal(at_once, start)
    assert torch.allclose(accumulated[3], at_once, atol=1e-7)
    # The rate that --auto-scale-lr would make of it, as the page warns.
    cfg = load_config(CONFIG, options)
    assert scaled_rate(cfg, 1) == pytest.approx(5e-5)
