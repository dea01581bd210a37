"""A detector by its config and checkpoint, ready to look at pictures."""

import glob
import os
import os.path as osp
from pathlib import Path

from mmengine.config import Config

from ..config import check_device, find_checkpoint
from ..errors import UserError
from ..ops import prepare_process_for_cpu
from ..paths import clone_root
from .inferencer import Inferencer

DEMO = Path('work_dirs', 'demo')


def find_model(config: str | None, checkpoint: str | None) -> tuple[str, str]:
    """Config and checkpoint, where one or both are not named.

    Raises:
        UserError: If that leaves open which.
    """
    if config and not checkpoint:
        raise UserError('--config needs the --checkpoint that goes with it.')
    if checkpoint:
        find_checkpoint(checkpoint)
        return config or only_config(osp.dirname(checkpoint)), checkpoint
    root = clone_root()
    for folder in (DEMO, root / DEMO) if root else (DEMO,):
        checkpoints = [
            *folder.glob('best_*.pth'),
            *sorted(folder.glob('epoch_*.pth'), key=os.path.getmtime, reverse=True),
        ]
        if checkpoints:
            return only_config(str(folder)), str(checkpoints[0])
    raise UserError(
        'No model is named, and `make demo` has left none: there is no '
        f'checkpoint in {DEMO.resolve()}. Give --config and --checkpoint, or '
        'run `make demo` first.'
    )


def only_config(folder: str) -> str:
    configs = glob.glob(osp.join(glob.escape(folder), '*.py'))
    if len(configs) != 1:
        raise UserError(
            f'{len(configs) or "No"} configs are in '
            f'{folder or "."}, the folder of the checkpoint: '
            'give one with --config.'
        )
    return configs[0]


def prepare(cfg: Config, score_thr: float) -> Config:
    """Have a config's detector compute no more than is kept of it."""
    # Nothing is logged: what is drawn is written by the tools.
    cfg.visualizer.vis_backends = []
    # Masks need not be computed of what would be left out. Nothing else
    # changes: suppression goes from higher scores to lower ones.
    test_cfg = cfg.model.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn') or {}):
        if 'score_thr' in part:
            part['score_thr'] = max(part['score_thr'], score_thr)
    return cfg


def load_detector(
    cfg: Config, checkpoint: str | None, device: str | None = None
) -> Inferencer:
    """The detector of a prepared config, fused.

    Args:
        cfg (Config): From :func:`prepare`.
        checkpoint (str | None): None if the config's model needs none.
        device (str | None): By default a GPU if there is one.

    Raises:
        UserError: If the checkpoint doesn't fit, or there is no such device.
    """
    if device is not None:
        check_device(device)
    inferencer = Inferencer(cfg, checkpoint, device=device, show_progress=False)
    weight = next(inferencer.model.parameters(), None)
    if weight is None or weight.device.type == 'cpu':
        prepare_process_for_cpu()
    return inferencer
