"""DataLoader workers that leave signals to the process that trains."""

import os
import random
import signal
import threading
import warnings

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.registry import FUNCTIONS
from torch.utils.data import get_worker_info

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_SECONDS = 1.0  # between two looks at whether the parent is there


@FUNCTIONS.register_module()
def ignore_signals(worker_id: int, disable_subprocess_warning: bool = False) -> None:
    """A ``worker_init_fn``: the worker outlives SIGTERM and SIGINT of others.

    torchrun, Slurm and Ctrl-C signal a whole group. Workers would die first, and
    torch raises an error in the training for each, in place of the save. The worker
    still ends when its parent terminates it, and within seconds when its parent is
    gone, killed as it may be. As it replaces MMEngine's, it seeds NumPy, Python and
    torch, by torch's seed of this worker and the rank.

    Args:
        worker_id (int): From torch.
        disable_subprocess_warning (bool): As in MMEngine: warnings of the first
            worker only. Defaults to False.
    """
    info = get_worker_info()
    assert info is not None, 'of a DataLoader worker'
    # The processes of a job have equal generators, as a rule: so the rank too.
    seed = info.seed + info.num_workers * get_rank()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter('ignore')
    parent = os.getppid()
    if hasattr(signal, 'sigtimedwait'):
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=_answer_signals, args=(parent,), daemon=True).start()
    else:  # macOS, Windows: nobody says who sent a SIGTERM
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer_signals(parent: int) -> None:
    """End this process for its parent alone, or without one."""
    while os.getppid() == parent:
        received = signal.sigtimedwait(_SIGNALS, _LOOK_SECONDS)
        if received and received.si_pid == parent:
            break
    os._exit(0)


def ignore_signals_in_workers(cfg: Config) -> None:
    """Put :func:`ignore_signals` into a config's loaders, unless they have a
    ``worker_init_fn``.

    Args:
        cfg (Config): Of a run, changed in place.
    """
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict) or not loader.get('num_workers'):
            continue
        if 'worker_init_fn' not in loader:
            loader['worker_init_fn'] = dict(
                type='mobilevig_det.engine.ignore_signals',
                # MMEngine takes it out of the loader for its own function only.
                disable_subprocess_warning=loader.pop(
                    'disable_subprocess_warning', False
                ),
            )
