"""Draw training images after augmentation, with their boxes and masks."""

import argparse
import os
import os.path as osp
import random

from .arguments import make_config_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    parser.add_argument(
        '--out-dir',
        default='work_dirs/browse',
        help='Write the drawings to this folder (default: %(default)s).',
    )
    parser.add_argument(
        '--number',
        type=int,
        default=20,
        help='Number of images to draw, spread evenly over the data set; 0 draws all '
        'of them (default: %(default)s).',
    )
    parser.add_argument(
        '--split',
        default='train',
        choices=['train', 'val', 'test'],
        help='Split whose dataset and pipeline are used (default: %(default)s).',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='Seed of the random augmentation (default: %(default)s).',
    )
    parser.add_argument(
        '--show', action='store_true', help='Also show each drawing in a window.'
    )
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np
    import torch
    from mmdet.registry import DATASETS, VISUALIZERS
    from mmdet.structures.bbox import BaseBoxes
    from mmengine.registry import init_default_scope
    from tqdm import tqdm

    from ..config import load_config
    from ..datasets.data_check import pointing_to_check_data
    from ..datasets.data_paths import check_data_paths
    from ..inference.visualization import DetectionVisualizer

    cfg = load_config(args.config, args.cfg_options)
    check_data_paths(cfg, [args.split])
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    for seed in random.seed, np.random.seed, torch.manual_seed:
        seed(args.seed)
    cfg.visualizer.vis_backends = []
    if (
        cfg.visualizer.type == 'DetLocalVisualizer'
    ):  # fails if there are too few colours
        cfg.visualizer.type = DetectionVisualizer
    visualizer = VISUALIZERS.build(cfg.visualizer)

    with pointing_to_check_data(cfg):
        dataset = DATASETS.build(cfg[f'{args.split}_dataloader'].dataset)
        visualizer.dataset_meta = dataset.metainfo
        number = min(args.number or len(dataset), len(dataset))
        indices = np.linspace(0, len(dataset) - 1, number).round().astype(int)
        os.makedirs(args.out_dir, exist_ok=True)
        for index in tqdm(indices.tolist(), unit='image'):
            item = dataset[index]
            # As the model gets the image, before normalisation and padding.
            image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
            sample = item['data_samples'].cpu()
            instances = sample.gt_instances
            if isinstance(instances.get('bboxes'), BaseBoxes):
                instances.bboxes = instances.bboxes.tensor
            stem = osp.splitext(osp.basename(sample.img_path))[0]
            name = f'{index:06d}_{stem}.jpg'
            visualizer.add_datasample(
                name,
                np.ascontiguousarray(image),
                sample,
                draw_pred=False,
                show=args.show,
                out_file=osp.join(args.out_dir, name),
            )
    print(
        f'Drew {number} of the {len(dataset)} images of the {args.split} dataset: '
        f'{args.out_dir}/'
    )
