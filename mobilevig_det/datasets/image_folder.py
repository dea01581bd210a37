"""Images in a folder for each class, as ImageNet's are kept."""

import os
from collections.abc import Sequence

from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from ..errors import UserError

EXTENSIONS = ('.jpeg', '.jpg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')


def list_classes(folder: str) -> list[str]:
    """Names of the folders in a folder, in order: the classes.

    Raises:
        UserError: If there is no such folder, or none in it.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f'There is no image folder {folder!r} (looked at '
            f'{os.path.abspath(folder)}).'
        )
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise UserError(
            f'{folder} has no folders in it: images of a class must be in a folder '
            f'of its own, as in {os.path.join(folder, "n01440764", "….JPEG")}.'
        )
    return classes


def list_images(folder: str, classes: Sequence[str]) -> list[dict]:
    """Every image with its class: ``img_path`` and ``gt_label``.

    Raises:
        UserError: If a class has none.
    """
    found: list[dict] = []
    for label, name in enumerate(classes):
        before = len(found)
        for root, folders, files in os.walk(os.path.join(folder, name)):
            folders.sort()
            found += [
                dict(img_path=os.path.join(root, file), gt_label=label)
                for file in sorted(files)
                if file.lower().endswith(EXTENSIONS)
            ]
        if len(found) == before:
            raise UserError(
                f'{os.path.join(folder, name)} has no images '
                f'({", ".join(EXTENSIONS)}): put some there, or remove the folder of '
                'that class.'
            )
    return found


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """A folder of images for each class; the classes are in order of names.

    Args:
        data_root (str): Folder that holds the one of ``data_prefix``.
        data_prefix (dict): ``dict(img='train/')``.
        num_classes (int, optional): How many classes there must be. Defaults to
            None: as many as there are.
        pipeline (Sequence): Transforms.
        others: As in MMEngine's BaseDataset.

    Raises:
        UserError: If there is no such folder, no image in it, or another number
            of classes.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: dict | None = None,
        num_classes: int | None = None,
        pipeline: Sequence = (),
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        self.num_classes = num_classes
        super().__init__(
            data_root=data_root,
            data_prefix=data_prefix or dict(img=''),
            pipeline=list(pipeline),
            lazy_init=True,
            **kwargs,
        )
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict]:
        """Find the classes and the images."""
        folder = self.data_prefix['img']
        classes = list_classes(folder)
        if self.num_classes not in (None, len(classes)):
            raise UserError(
                f'{folder} has {len(classes)} folders, so as many classes, but the '
                f'config is for {self.num_classes}: give another folder, or set '
                f'num_classes = {len(classes)} in the config (of the head, the '
                'mixing and the data sets).'
            )
        self._metainfo['classes'] = tuple(classes)
        return list_images(folder, classes)
