"""Prepare a config and build MMEngine's Runner, for training and testing."""

import argparse
import os
import os.path as osp
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .. import engine  # its hooks and loops, by their short names
from ..config import load_config
from ..datasets import check_data_paths
from ..engine.launch import check_launcher, init_process_group, restarts
from ..errors import UserError
from ..ops import prepare_process_for_cpu


def prepare_config(args: argparse.Namespace, splits: list[str]) -> Config:
    """Read the config that the flags of ``add_runner_arguments`` ask for.

    Args:
        args (Namespace): The flags, and ``config``.
        splits (list[str]): Whose data must be there, of ``train``, ``val``, ``test``.

    Raises:
        UserError: If the config, its data or the launcher's environment is missing.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    check_data_paths(cfg, splits)
    # --work-dir, else the config's own, else named after the config
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', Path(cfg.filename).stem)
    check_writable(cfg.work_dir, '--work-dir')
    cfg.launcher = args.launcher
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        if loader.get('num_workers') == 0:  # torch refuses what only workers have
            loader.pop('prefetch_factor', None)
            loader['persistent_workers'] = False
    engine.ignore_signals_in_workers(cfg)
    if args.launcher != 'none' and get_device() == 'cpu':
        _use_gloo(cfg)
    elif args.launcher == 'pytorch' and restarts():
        # Before MMEngine does, whose processes would look for the dead ones.
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
        init_process_group(dist_cfg.get('backend', 'nccl'), dist_cfg.get('timeout'))
    return cfg


def check_writable(folder: str | Path, flag: str) -> None:
    """Check that files can be written into a folder, or that it can be created.

    Args:
        folder (str | Path): The folder.
        flag (str): What it was given with, for the error message.

    Raises:
        UserError: If not.
    """
    place = Path(folder).absolute()
    while not (place.exists() or place.is_symlink()):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(
            f'{flag}: {folder} cannot be written to ({place}: {error.strerror}).'
        ) from error


def _use_gloo(cfg: Config) -> None:
    """Let a launcher work without GPUs, which is slow and meant for trials."""
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
    """Build the runner of a config; on CPUs with our operators."""
    if get_device() == 'cpu':
        prepare_process_for_cpu()
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
