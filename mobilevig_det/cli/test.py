"""Evaluate a detector or a classifier on the test set of its config.

All flags of MMDetection's test.py are accepted.
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .arguments import add_runner_arguments, make_config_parser
from .command import command

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

VISUALIZER = 'mobilevig_det.inference.visualization.DetectionVisualizer'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    parser.add_argument(
        'checkpoint', help='Checkpoint file, or an exported detector (.onnx, .xml).'
    )
    add_runner_arguments(parser)
    parser.add_argument(
        '--out', help='Write the predictions to this pickle file (.pkl).'
    )
    parser.add_argument(
        '--show', action='store_true', help='Show the predictions in a window.'
    )
    parser.add_argument(
        '--show-dir',
        help='Save drawings of the ground truth next to the predictions in '
        'WORK_DIR/TIMESTAMP/SHOW_DIR.',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='Seconds for which --show shows each image (default: %(default)s).',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='Use test-time augmentation, which supports boxes but not masks.',
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help="Fold the backbone's normalization layers into its convolutions. This is "
        'faster and gives the same results except for rounding.',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help="Evaluate a classifier's averaged weights instead of the raw ones, to "
        'which the published top-1 accuracy refers.',
    )
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, not {args.out!r}')
    return args


def use_tta(cfg: 'Config') -> None:
    """Enable MMDetection's test-time augmentation, which supports only boxes.

    Unless the config defines another one, the augmentation is a horizontal flip.

    Args:
        cfg (Config): The config, which is changed.
    """
    from mmengine.config import ConfigDict
    from mmengine.logging import print_log

    from ..datasets import leaf_datasets

    nms = dict(type='nms', iou_threshold=0.5)
    tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    cfg.setdefault('tta_model', tta_model)
    dataset: ConfigDict = next(leaf_datasets(cfg.test_dataloader.dataset))
    if 'tta_pipeline' not in cfg:
        *loading, pack = deepcopy(dataset.pipeline)
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        tta = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.tta_pipeline = [*loading, tta]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)

    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if 'segm' in evaluator.get('metric', ()):
            print_log(
                '--tta: MMDetection supports only boxes; masks are not evaluated.',
                level='WARNING',
            )
            evaluator.metric = 'bbox'


def refuse(args: argparse.Namespace, flags: Sequence[str], reason: str) -> None:
    """Reject flags that don't apply.

    Args:
        args (Namespace): Parsed arguments.
        flags (Sequence[str]): Names of the flags, without ``--``.
        reason (str): End of the message, after the name of the flag.

    Raises:
        UserError: If one of the flags is given.
    """
    for flag in flags:
        if getattr(args, flag.replace('-', '_')) not in (None, False, 'none'):
            raise UserError(f'--{flag} {reason}')


def test_classifier(cfg: 'Config', args: argparse.Namespace) -> None:
    """Evaluate a classifier and log its top-1 and top-5 accuracy.

    Args:
        cfg (Config): Config of a classifier.
        args (Namespace): Parsed arguments; ``ema`` selects the averaged weights.

    Raises:
        UserError: If a flag is only for detectors, or the checkpoint does not fit.
    """
    from mmengine.evaluator import DumpResults
    from mmengine.logging import print_log
    from mmengine.model import is_model_wrapper

    from ..classification import load_classifier
    from .runner import build_runner

    refuse(args, ['show', 'show-dir', 'tta'], 'is for detectors.')
    cfg.custom_hooks = []  # EMAHook would swap the weights again
    runner = build_runner(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    load_classifier(model, args.checkpoint, args.ema)
    if args.fuse:
        fuse(model)
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    results = runner.test()
    which = 'averaged' if args.ema else 'raw'
    text = ', '.join(
        f'{key.rpartition("/")[-1]} {value:.2f} %' for key, value in results.items()
    )
    print_log(f'{args.checkpoint}, {which} weights: {text}', logger='current')


def fuse(model: 'nn.Module') -> None:
    """Fold the normalization layers of a model's backbone into its convolutions.

    Raises:
        UserError: If the model has no backbone of this package.
    """
    from ..backbones import fuse_backbones

    if not fuse_backbones(model.eval()):
        raise UserError('--fuse is for models with a backbone of mobilevig_det.')


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from mmdet.engine.hooks.utils import trigger_visualization_hook
    from mmdet.evaluation import DumpDetResults
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.model import is_model_wrapper

    from ..checkpoints import explain_mismatch
    from ..classification.config_checks import check_classifier, is_classifier
    from ..config import find_checkpoint
    from ..export.exported_detector import SUFFIXES, use_exported
    from ..inference.drawings import unique_names
    from .runner import build_runner, check_writable, prepare_config

    setup_cache_size_limit_of_dynamo()
    if args.out is not None:
        folder = Path(args.out).parent
        if not folder.is_dir():
            raise UserError(f'--out: the folder {folder} does not exist.')
        check_writable(folder, '--out')
    cfg = prepare_config(args, ['test'])
    exported = args.checkpoint.endswith(SUFFIXES)
    if exported:
        refuse(
            args,
            ['fuse', 'tta', 'launcher'],
            f'is for checkpoints; {args.checkpoint} is an exported model, which is '
            'fused and runs in one process as it is.',
        )
    else:
        find_checkpoint(args.checkpoint)
    cfg.load_from = None  # loaded below, strictly
    if is_classifier(cfg):
        check_classifier(cfg, ['test'])
        test_classifier(cfg, args)
        return
    refuse(
        args,
        ['ema'],
        'is for classifiers: a detector is scored with the averaged weights where its '
        'file has any.',
    )
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
        if cfg.visualizer.type == 'DetLocalVisualizer':
            cfg.visualizer.type = VISUALIZER
    if args.tta:
        use_tta(cfg)

    if exported:
        use_exported(cfg, args.checkpoint)
    runner = build_runner(cfg)
    if not exported:
        with explain_mismatch(args.checkpoint):
            runner.load_checkpoint(args.checkpoint, strict=True)
    if args.tta:
        model = runner.model
        while is_model_wrapper(model) or hasattr(model, 'module'):
            model = model.module
        if model.with_mask:
            model.roi_head.mask_head = None
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    if args.fuse:
        fuse(runner.model)
    if args.show_dir and hasattr(runner.visualizer, 'file_names'):
        dataset = runner.test_loop.dataloader.dataset
        infos = map(dataset.get_data_info, range(len(dataset)))
        runner.visualizer.file_names = unique_names(
            info['img_path'] for info in infos if 'img_path' in info
        )
    runner.test()
