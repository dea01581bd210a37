"""Classification data: a folder of images per class, and the transforms to test on it.

The transforms replace those of MMPretrain, so that testing doesn't need it.
"""

import os
from collections.abc import Sequence

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, CenterCrop
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement

from ..errors import UserError

EXTENSIONS = ('.jpeg', '.jpg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')


def list_classes(folder: str) -> list[str]:
    """List the folders in a folder, in alphabetical order: the classes.

    Raises:
        UserError: If there is no such folder, or no folder in it.
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
    """List the images of each class.

    Args:
        folder (str): Folder that holds those of the classes.
        classes (Sequence[str]): Names of the classes.

    Returns:
        list[dict]: ``img_path`` and ``gt_label`` of each image.

    Raises:
        UserError: If a class has no images.
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
    """Images in a folder per class, as ImageNet has them.

    Labels follow the alphabetical order of the classes.

    Args:
        data_root (str): Folder that holds the one of ``data_prefix``.
        data_prefix (dict, optional): ``dict(img='train/')``, for example. Defaults to
            None: ``data_root`` itself.
        num_classes (int, optional): Required number of classes. Defaults to None: any.
        **kwargs: Other arguments of MMEngine's BaseDataset.

    Raises:
        UserError: If there is no such folder, a class without images, or another
            number of classes.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: dict | None = None,
        num_classes: int | None = None,
        **kwargs,
    ) -> None:
        self.num_classes = num_classes
        data_prefix = data_prefix or dict(img='')
        super().__init__(data_root=data_root, data_prefix=data_prefix, **kwargs)

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


@TRANSFORMS.register_module()
class ResizeShortEdge(BaseTransform):
    """Resize the short edge to a length, keeping the aspect ratio.

    Equal to torchvision's ``Resize`` of PIL images: Pillow's filter, and the long edge
    rounded down.

    Args:
        length (int): In pixels.
        interpolation (str): One of Pillow's filters, such as 'bilinear'. Defaults to
            'bicubic'.
    """

    def __init__(self, length: int, interpolation: str = 'bicubic') -> None:
        self.length = length
        self.interpolation = interpolation

    def transform(self, results: dict) -> dict:
        """Resize ``img``, uint8 of shape (H, W, 3)."""
        height, width = results['img'].shape[:2]
        short, long = min(height, width), max(height, width)
        longer = int(self.length * long / short)
        size = (longer, self.length) if width > height else (self.length, longer)
        if (width, height) != size:
            results['img'] = mmcv.imresize(
                results['img'], size, interpolation=self.interpolation, backend='pillow'
            )
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class CropCenter(CenterCrop):
    """Crop a square from the centre.

    Equal to torchvision's ``CenterCrop`` for images that are large enough.

    Args:
        size (int): Height and width of the crop, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__(crop_size=size)


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """Pack an image and its label for a classifier."""

    def transform(self, results: dict) -> dict:
        """Return ``inputs``, uint8 of shape (3, H, W), and ``data_samples``.

        A data sample has ``img_path`` and, if it is known, ``gt_label``.
        """
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        sample = BaseDataElement(metainfo=dict(img_path=results.get('img_path')))
        if 'gt_label' in results:
            sample.gt_label = torch.tensor(results['gt_label'])
        return dict(inputs=torch.from_numpy(image), data_samples=sample)
