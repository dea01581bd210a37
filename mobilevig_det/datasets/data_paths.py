"""Find the data sets in a config, and check that their files exist."""

import os
import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..errors import UserError


def leaf_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the data sets in wrappers such as RepeatDataset and ConcatDataset.

    Args:
        dataset (dict): Config of a data set, such as ``cfg.train_dataloader.dataset``.

    Example:
        >>> wrapped = dict(type='RepeatDataset', dataset=dict(type='CocoDataset'))
        >>> list(leaf_datasets(wrapped))
        [{'type': 'CocoDataset'}]
    """
    if 'dataset' in dataset:
        yield from leaf_datasets(dataset['dataset'])
    elif 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from leaf_datasets(part)
    else:
        yield dataset


def is_on_disk(path: str, backend_args: dict | None = None) -> bool:
    """Return whether MMEngine reads a path from the disk, not through another backend.

    Args:
        path (str): The path, or the address.
        backend_args (dict, optional): Of the file backend. Defaults to None.
    """
    backend = (backend_args or {}).get('backend', 'local')
    return '://' not in path and backend in ('local', 'LocalBackend')


def check_data_paths(cfg: Config, splits: list[str]) -> None:
    """Check that the data of a config exists, before anything is built.

    Skipped are addresses of other storage than the disk, such as ``s3://bucket``, and
    images that a file backend or a transform of the user's own reads.

    Args:
        cfg (Config): A complete config.
        splits (list[str]): Whose data is needed: 'train', 'val', 'test'.

    Raises:
        UserError: If a folder or file is missing. It names the first one.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in leaf_datasets(loader['dataset']) if loader else ():
            root = dataset.get('data_root') or ''
            paths = [dataset.get('ann_file') or '']
            if not is_on_disk(root, dataset.get('backend_args')):
                continue
            if _loads_from_disk(dataset):
                prefixes = dataset.get('data_prefix') or {}
                paths += prefixes.values()
            for path in [root, *(osp.join(root, path) for path in paths)]:
                if path and is_on_disk(path) and not osp.exists(path):
                    is_folder = path == root or path.endswith('/')
                    raise UserError(_missing(path, is_folder, split, dataset))


def _loads_from_disk(dataset: dict) -> bool:
    """Whether the first step of the pipeline reads image files, as far as is known."""
    step: Any = next(iter(dataset.get('pipeline') or ()), {})
    if not isinstance(step, dict):
        return False
    kind = str(getattr(step.get('type'), '__name__', step.get('type', '')))
    is_stock = not kind or kind.rpartition('.')[2].startswith('LoadImage')
    return is_stock and is_on_disk('', step.get('backend_args'))


def _missing(path: str, is_folder: bool, split: str, dataset: dict) -> str:
    has_classes = str(dataset.get('type')).endswith('ImageFolder')
    what = 'folder' if is_folder or has_classes else 'file'
    advice = (
        'Correct data_root, ann_file or data_prefix of this data set in the config '
        f'({split}_dataloader.dataset).'
    )
    for variable, (folder, text) in ROOTS.items():  # of our own configs
        root = os.environ.get(variable, folder)
        if (dataset.get('data_root') or '').rstrip('/') == root.rstrip('/'):
            advice = text
    return (
        f'The {split} data is not there: no {what} {path!r} (looked at '
        f'{osp.abspath(path)}).\n{advice}'
    )


# Environment variables that our configs read, what they default to, and advice.
ROOTS = {
    'COCO_ROOT': (
        'data/coco',
        'Set COCO_ROOT to the folder that holds annotations/, train2017/ and '
        'val2017/, for example COCO_ROOT=/data/coco.\n'
        'No COCO at hand? `make demo` needs none: it generates its own data.',
    ),
    'SHAPES_ROOT': (
        'data/shapes',
        'Set SHAPES_ROOT to the folder that tools/make_shapes.py has written, or run '
        'it: it needs no download.',
    ),
    'IMAGENET_ROOT': (
        'data/imagenet',
        'Set IMAGENET_ROOT to the folder that holds train/ and val/, each with a '
        'folder a class, for example IMAGENET_ROOT=/data/imagenet.\n'
        'No ImageNet at hand? mobilevig_ti_shapes needs none: '
        '`python tools/make_shapes.py --task classification` makes its data.',
    ),
    'SHAPE_CLASSES_ROOT': (
        'data/shape_classes',
        'Run `python tools/make_shapes.py --task classification`, or set '
        'SHAPE_CLASSES_ROOT to the folder that it has written.',
    ),
}
