"""What the command-line tools share: configs by name, errors in one line."""

import argparse
import functools
import os
import os.path as osp
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .. import engine  # noqa: F401  its hooks and loops, by their short names
from ..checkpoints import load_all_safely
from ..config import load_config
from ..datasets import check_data_paths
from ..engine.launch import (
    LAUNCHERS,
    check_launcher,
    init_process_group,
    leave_process_group,
    restarts,
)
from ..errors import UserError
from ..ops import prepare_process_for_cpu
from .config_slips import explain_config_slip
from .dead_processes import explain_dead_process


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. '
        'train_dataloader.batch_size=4 model.backbone.init_cfg=None; lists '
        'as key="[a,b]", without spaces',
    )


def positive(number: type[int] | type[float]) -> Callable[[str], float]:
    """A type of arguments: a number of that type that is more than 0."""

    def parse(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError('must be more than 0')
        return value

    parse.__name__ = number.__name__  # argparse names it where it is no number
    return parse


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError('must be between 0 and 1')
    return value


def add_inference_arguments(parser: argparse.ArgumentParser, checkpoint: str) -> None:
    """The flags that tools/infer.py and tools/infer_ray.py have in common.

    Args:
        parser (ArgumentParser): Gets them.
        checkpoint (str): What a checkpoint may be.
    """
    parser.add_argument(
        '--config',
        help='config file: a path, or the name of one of ours; by default '
        'the one in the folder of the checkpoint',
    )
    parser.add_argument(
        '--checkpoint',
        help=f'{checkpoint}; if neither is given, the run of `make demo`',
    )
    parser.add_argument(
        '--score-thr',
        type=_score,
        default=0.3,
        help='leave out what scores less, everywhere (default: %(default)s); '
        'to compute AP, use 0',
    )
    parser.add_argument(
        '--batch-size',
        type=positive(int),
        help='images that the model sees at once, of those that are padded to one '
        'size; by default as many as have the pixels of 800x1344, at most 8',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on with what an earlier run into the same --out-dir has done',
    )
    add_cfg_options(parser)


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that MMDetection's train.py and test.py have in common."""
    parser.add_argument('--work-dir', help='folder for logs and results')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', *LAUNCHERS], default='none', help='job launcher'
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def prepare_config(args: argparse.Namespace, splits: list[str]) -> Config:
    """Read the config that the flags of :func:`add_runner_arguments` ask
    for, and check that the data of its splits is there."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    check_data_paths(cfg, splits)
    # --work-dir, else the config's own, else named after the config
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', Path(cfg.filename).stem)
    cfg.launcher = args.launcher
    engine.ignore_signals_in_workers(cfg)
    if args.launcher != 'none' and get_device() == 'cpu':
        _use_gloo(cfg)
    elif args.launcher == 'pytorch' and restarts():
        # Before MMEngine does, whose processes would look for the dead ones.
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
        init_process_group(dist_cfg.get('backend', 'nccl'), dist_cfg.get('timeout'))
    return cfg


def _use_gloo(cfg: Config) -> None:
    """Let a launcher work without GPUs: slow, but good for trying out."""
    print_log(
        'No GPU: the processes talk over gloo, and each keeps BatchNorm '
        'statistics of its own (torch synchronises them on GPUs only).',
        level='WARNING',
    )
    cfg.merge_from_dict({'env_cfg.dist_cfg': dict(backend='gloo')})
    if cfg.launcher == 'pytorch' and not torch.distributed.is_initialized():
        # Before MMEngine does, which asks torch for a GPU first.
        init_process_group('gloo')
    cfg.sync_bn = None
    # By itself MMEngine names a GPU, which torch refuses for a CPU's model.
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )


def build_runner(cfg: Config) -> Runner:
    if get_device() == 'cpu':
        prepare_process_for_cpu()
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def command(main: Callable) -> Callable:
    """Decorate a tool's main: user errors, slips in configs, and processes that died,
    end it with one message.

    Also has every checkpoint read safely: MMEngine asks torch for the unsafe
    mode on OneDL's packages, and before torch 2.6.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.exit(f'{Path(main.__code__.co_filename).name}: {error}')
        except Exception as error:
            message = explain_config_slip(error) or explain_dead_process(error)
            if message is None:
                raise
            sys.exit(f'{Path(main.__code__.co_filename).name}: {message}')
        except SystemExit:  # a code of its own, as after a signal
            leave_process_group()
            raise
        leave_process_group()

    return wrapper
