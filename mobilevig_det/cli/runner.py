"""Prepare a config and build MMEngine's Runner, for training and testing."""

import argparse
import logging
import os
import os.path as osp
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .. import engine  # also registers its hooks and loops
from ..backbones.timm_backbone import TimmBackbone
from ..config import load_config
from ..datasets import check_data_paths
from ..engine.launch import check_launcher, init_process_group, restarts
from ..errors import UserError
from ..ops import prepare_process_for_cpu


def prepare_config(args: argparse.Namespace, splits: list[str]) -> Config:
    """Read a config and apply the flags of ``add_runner_arguments`` to it.

    It also checks the data and the work dir, and prepares distributed jobs.

    Args:
        args (Namespace): Parsed arguments: ``config``, ``cfg_options`` and the flags.
        splits (list[str]): Splits whose data must exist: ``train``, ``val``, ``test``.

    Returns:
        Config: The config.

    Raises:
        UserError: If the config, its data or the launcher's environment variables are
            missing, or if the work dir is not writable.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    check_launcher(args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    check_data_paths(cfg, splits)
    # Precedence: --work-dir, the config's own setting, a name made from the config's.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', Path(cfg.filename).stem)
    check_writable(cfg.work_dir, '--work-dir')
    cfg.launcher = args.launcher
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        if loader.get('num_workers') == 0:  # torch rejects settings of workers then
            loader.pop('prefetch_factor', None)
            loader['persistent_workers'] = False
    engine.ignore_signals_in_workers(cfg)
    if args.launcher != 'none' and get_device() == 'cpu':
        _use_gloo(cfg)
    elif args.launcher == 'pytorch' and restarts():
        # Before MMEngine does it, whose processes would wait for the dead ones.
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
        init_process_group(dist_cfg.get('backend', 'nccl'), dist_cfg.get('timeout'))
    return cfg


def check_writable(folder: str | Path, flag: str) -> None:
    """Check that files can be written into a folder, or that it can be created.

    Args:
        folder (str | Path): The folder.
        flag (str): Flag that names the folder, for the error message.

    Raises:
        UserError: If the folder is not writable.
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
    """Configure distributed training on CPUs, which is slow and meant for trials."""
    print_log(
        'There is no GPU: the processes communicate over gloo, and each keeps its '
        'own BatchNorm statistics (torch synchronises them only on GPUs).',
        level='WARNING',
    )
    cfg.merge_from_dict({'env_cfg.dist_cfg': dict(backend='gloo')})
    if cfg.launcher == 'pytorch' and not torch.distributed.is_initialized():
        # Before MMEngine does it, which would ask torch for a GPU first.
        init_process_group('gloo')
    cfg.sync_bn = None
    # MMEngine's default passes a GPU id, which torch rejects for a model on the CPU.
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
    """Build MMEngine's runner from a config.

    Without a GPU, the process is prepared for fast computation on CPUs first.

    Args:
        cfg (Config): The complete config.

    Returns:
        Runner: The runner.
    """
    if get_device() == 'cpu':
        prepare_process_for_cpu()
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def report_normalization(model: Mapping[str, Any]) -> None:
    """Warn if the data preprocessor normalizes otherwise than the weights expect.

    Args:
        model (Mapping): The ``model`` of a config.
    """
    backbone = model.get('backbone') or {}
    is_ours = str(backbone.get('type')).rpartition('.')[2] == 'TimmBackbone'
    if not is_ours or not (backbone.get('pretrained') or backbone.get('init_cfg')):
        return
    expected = TimmBackbone.normalization(backbone['model_name'])
    given = model.get('data_preprocessor') or {}
    for key, values in expected.items():
        found = list(given.get(key) or ())
        if len(found) != 3 or any(abs(a - b) > 0.5 for a, b in zip(found, values)):
            print_log(
                f'data_preprocessor.{key} is {found}, but the weights of '
                f'{backbone["model_name"]} in timm expect {values}.',
                logger='current',
                level=logging.WARNING,
            )
