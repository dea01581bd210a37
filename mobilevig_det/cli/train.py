"""Train a detector or a classifier.

All flags of MMDetection's train.py are accepted.
"""

import argparse
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import UserError
from .arguments import add_runner_arguments, make_config_parser
from .command import command

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    add_runner_arguments(parser)
    parser.add_argument(
        '--amp',
        action='store_true',
        help='Enable automatic mixed precision, which needs a GPU.',
    )
    parser.add_argument(
        '--amp-dtype',
        choices=['float16', 'bfloat16'],
        default='float16',
        help='Dtype of --amp (default: %(default)s). bfloat16 works without loss '
        'scaling, but only with an mmcv that has no compiled operators.',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='Multiply the learning rate by the total batch size divided by '
        'auto_scale_lr.base_batch_size of the config.',
    )
    parser.add_argument(
        '--tensorboard',
        action='store_true',
        help='Also write TensorBoard logs, to WORK_DIR/TIMESTAMP/vis_data.',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='Resume from this checkpoint or, if none is named, from the newest '
        'readable one in the work dir.',
    )
    parser.add_argument(
        '--no-data-check',
        action='store_true',
        help='Do not check annotations and images before training.',
    )
    return parser.parse_args(argv)


def use_fused_adamw(cfg: 'Config') -> None:
    """Use the fused AdamW where torch has it: on GPUs, and on CPUs since torch 2.4.

    Args:
        cfg (Config): The config, which is changed.
    """
    import torch
    from mmengine.device import get_device
    from mmengine.utils import digit_version

    if get_device() != 'cuda' and digit_version(torch.__version__) < digit_version(
        '2.4'
    ):
        return
    optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {})
    is_adamw = optimizer.get('type') in ('AdamW', torch.optim.AdamW)
    if is_adamw and not {'fused', 'foreach', 'differentiable'} & set(optimizer):
        optimizer.fused = True


def use_amp(cfg: 'Config', dtype: str) -> None:
    """Enable automatic mixed precision.

    Args:
        cfg (Config): The config, which is changed.
        dtype (str): 'float16' or 'bfloat16'.

    Raises:
        UserError: If there is no GPU, or mmcv's compiled operators lack the dtype.
    """
    from mmengine.device import get_device

    from ..mmcv_ops.mmcv_ext import is_compiled

    if get_device() == 'cpu':
        raise UserError('--amp needs a GPU, but torch finds none: train without --amp.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if dtype == 'float16':
        cfg.optim_wrapper.loss_scale = 'dynamic'
        return
    # bfloat16 has the range of float32, so the loss needs no scaling.
    cfg.optim_wrapper.update(dtype=dtype, loss_scale=1.0)
    if is_compiled():
        raise UserError(
            '--amp-dtype bfloat16: the operators of this compiled mmcv have no '
            'bfloat16 kernels for GPUs. Ours have: pip uninstall -y mmcv && pip '
            'install "mmcv-lite>=2.0,<2.2"; or use float16.'
        )


def log_to_tensorboard(cfg: 'Config') -> None:
    """Add TensorBoard to the logging backends, unless it is there already.

    Args:
        cfg (Config): The config, which is changed.

    Raises:
        UserError: If TensorBoard is not installed.
    """
    if find_spec('tensorboard') is None:
        raise UserError(
            '--tensorboard: TensorBoard is not installed: pip install tensorboard'
        )
    backends = cfg.visualizer.setdefault('vis_backends', [])
    if 'TensorboardVisBackend' not in [b.get('type') for b in backends]:
        backends.append(dict(type='TensorboardVisBackend'))


def resume(cfg: 'Config', where: str) -> None:
    """Configure a run to resume from a checkpoint.

    Args:
        cfg (Config): The config, which is changed.
        where (str): Checkpoint file, or ``auto`` for the newest one in the work dir. If
            the work dir has none, training starts as the config says.
    """
    cfg.resume = True
    checkpoint: dict = cfg.get('default_hooks', {}).get('checkpoint') or {}
    durable = str(checkpoint.get('type')).endswith('DurableCheckpointHook')
    if where != 'auto':
        cfg.load_from = where
        if durable:
            checkpoint['resume_newest'] = False
    elif not durable:
        cfg.load_from = None  # MMEngine would resume from it


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    from ..classification.config_checks import check_classifier, is_classifier
    from ..config import find_checkpoint
    from ..datasets.data_check import check_before_training, pointing_to_check_data
    from ..engine.launch import restarts
    from .runner import build_runner, prepare_config, report_normalization

    # Fewer recompilations when the config switches torch.compile on.
    setup_cache_size_limit_of_dynamo()
    cfg = prepare_config(args, ['train', 'val'])

    if args.amp:
        use_amp(cfg, args.amp_dtype)
    use_fused_adamw(cfg)
    if args.tensorboard:
        log_to_tensorboard(cfg)

    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                f'--auto-scale-lr: {args.config} does not say for which batch '
                'size its learning rate is meant. Add, for example, '
                'auto_scale_lr = dict(base_batch_size=8).'
            )
        cfg.auto_scale_lr.enable = True

    if restarts():
        # Restarted by torchrun --max-restarts: resume from the last saved checkpoint.
        if args.resume not in (None, 'auto'):
            cfg.load_from = args.resume
        resume(cfg, 'auto')
    elif args.resume is not None:
        resume(cfg, args.resume)
    if cfg.get('load_from'):
        find_checkpoint(cfg.load_from)

    if is_classifier(cfg):
        check_classifier(cfg, ['train', 'val'])
        build_runner(cfg).train()
        return
    if not args.no_data_check:
        check_before_training(cfg)
    with pointing_to_check_data(cfg):
        runner = build_runner(cfg)
        report_normalization(cfg.model)  # after the runner has opened the log
        runner.train()
