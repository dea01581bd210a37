"""Look whether a config's data is there, before anything is built."""

import os.path as osp
from collections.abc import Iterator

from mmengine.config import Config

from ..errors import UserError


def leaf_datasets(dataset: dict) -> Iterator[dict]:
    """The datasets inside wrappers such as RepeatDataset or ConcatDataset."""
    if 'dataset' in dataset:
        yield from leaf_datasets(dataset['dataset'])
    elif 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from leaf_datasets(part)
    else:
        yield dataset


def _joined(root: str, path: str) -> str:
    return path if osp.isabs(path) else osp.join(root, path)


def check_data_paths(cfg: Config, splits: list[str]) -> None:
    """Raise a UserError that names the first missing folder or file.

    Args:
        cfg (Config): A whole config.
        splits (list[str]): Whose data to look for: 'train', 'val', 'test'.

    Paths of other storage than the file system (``s3://…``) are left alone.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for dataset in leaf_datasets(loader['dataset']):
            root = dataset.get('data_root') or ''
            if '://' in root:
                continue
            paths = [dataset.get('ann_file') or '']
            paths += (dataset.get('data_prefix') or {}).values()
            for path in [root, *(_joined(root, path) for path in paths)]:
                if path and '://' not in path and not osp.exists(path):
                    images = str(dataset.get('type')).endswith('ImageFolder')
                    raise UserError(_missing(path, root, split, images))


def _missing(path: str, root: str, split: str, images: bool) -> str:
    what = 'folder' if images or path == root or path.endswith('/') else 'file'
    return (
        f'The {split} data is not there: no {what} {path!r} (looked at '
        f'{osp.abspath(path)}).\n' + (CLASSIFICATION if images else DETECTION)
    )


DETECTION = (
    'Set COCO_ROOT to the folder that holds annotations/, train2017/ '
    'and val2017/, for example COCO_ROOT=/data/coco; the configs of '
    'the shapes data read SHAPES_ROOT.\n'
    'No COCO at hand? `make demo` needs none: it generates its own '
    'data.'
)
CLASSIFICATION = (
    'Set IMAGENET_ROOT to the folder that holds train/ and val/, each with a '
    'folder a class, for example IMAGENET_ROOT=/data/imagenet.\n'
    'No ImageNet at hand? mobilevig_ti_shapes needs none: '
    '`python tools/make_shapes.py --task classification` makes its data '
    '(SHAPE_CLASSES_ROOT, if elsewhere).'
)
