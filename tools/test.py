#!/usr/bin/env python
"""Test a detector: MMDetection's tools/test.py, flag for flag."""

import argparse
from copy import deepcopy

from mobilevig_det.apis.cli import (
    add_runner_arguments,
    build_runner,
    command,
    find_checkpoint,
    prepare_config,
)
from mobilevig_det.backbones import fuse_backbones  # first, names misfits
from mobilevig_det.errors import UserError
from mobilevig_det.export.exported_detector import SUFFIXES, use_exported

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test (and eval) a detector')
    parser.add_argument(
        'config', help='config file: a path, or the name of one of ours'
    )
    parser.add_argument(
        'checkpoint', help='checkpoint file, or an exported detector (.onnx, .xml)'
    )
    add_runner_arguments(parser)
    parser.add_argument('--out', help='dump predictions to a pickle file (.pkl)')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument(
        '--show-dir',
        help='save pictures of the truth beside the predictions, in '
        'WORK_DIR/TIMESTAMP/SHOW_DIR',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds a picture shows'
    )
    parser.add_argument(
        '--tta', action='store_true', help='test time augmentation (boxes)'
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help="fold the backbone's norms into its convolutions: faster, and "
        'the same results to rounding',
    )
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, not {args.out!r}')
    return args


def use_tta(cfg: Config) -> None:
    """Switch on MMDetection's test time augmentation, which is for boxes
    only: unless the config says otherwise, the image and its mirror image."""
    cfg.setdefault(
        'tta_model',
        dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        ),
    )
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if 'tta_pipeline' not in cfg:
        *loading, pack = deepcopy(dataset.pipeline)
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [
            *loading,
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)

    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if 'segm' in evaluator.get('metric', ()):
            print_log(
                '--tta: MMDetection augments box detection only; masks are left out.',
                level='WARNING',
            )
            evaluator.metric = 'bbox'


def refuse_for_exported(args: argparse.Namespace) -> None:
    """What can only be done to a model of PyTorch."""
    refused = {'--fuse': args.fuse, '--tta': args.tta}
    refused['--launcher'] = args.launcher != 'none'
    for flag, given in refused.items():
        if given:
            raise UserError(
                f'{flag} is for checkpoints; {args.checkpoint} is an exported model, '
                'which is fused and runs in one process as it is.'
            )


def load_strictly(runner: Runner, checkpoint: str) -> None:
    """Load the checkpoint, and refuse one that would leave random weights in
    the model (MMEngine itself only warns)."""
    try:
        runner.load_checkpoint(checkpoint, strict=True)
    except RuntimeError as error:
        raise UserError(
            f'{checkpoint} does not fit {runner.cfg.filename}: use the '
            'config that it was trained with (a copy lies in its work dir).\n'
            f'{error}'
        ) from error


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_cache_size_limit_of_dynamo()
    cfg = prepare_config(args, ['test'])
    exported = args.checkpoint.endswith(SUFFIXES)
    if exported:
        refuse_for_exported(args)
    else:
        find_checkpoint(args.checkpoint)
    cfg.load_from = None  # loaded below, strictly
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
    if args.tta:
        use_tta(cfg)

    if exported:
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        use_exported(cfg, args.checkpoint)
    runner = build_runner(cfg)
    if not exported:
        load_strictly(runner, args.checkpoint)
    if args.tta:
        model = runner.model
        while is_model_wrapper(model) or hasattr(model, 'module'):
            model = model.module
        if model.with_mask:
            model.roi_head.mask_head = None
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    if args.fuse and not fuse_backbones(runner.model.eval()):
        raise UserError('--fuse is for models with a MobileViG backbone.')
    runner.test()


if __name__ == '__main__':
    main()
