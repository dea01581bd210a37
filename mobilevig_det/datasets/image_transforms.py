"""The transforms that testing a classifier needs, so that it needs no
MMPretrain."""

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.structures import BaseDataElement


@TRANSFORMS.register_module()
class ResizeShortEdge(BaseTransform):
    """Resize so that the short edge has a length, and the ratio is kept.

    Equal to torchvision's ``Resize`` of PIL images: Pillow's filter, and the
    long edge rounded down.

    Args:
        length (int): In pixels.
        interpolation (str): Pillow's: 'bilinear', 'bicubic', …. Defaults to
            'bicubic'.
    """

    def __init__(self, length: int, interpolation: str = 'bicubic') -> None:
        self.length = length
        self.interpolation = interpolation

    def transform(self, results: dict) -> dict:
        """Resize ``img``, uint8 (H, W, 3)."""
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
class CropCenter(BaseTransform):
    """Cut a square out of the middle, as torchvision's ``CenterCrop`` does for
    images that are large enough.

    Args:
        size (int): Its side, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def transform(self, results: dict) -> dict:
        """Crop ``img``, (H, W, 3)."""
        height, width = results['img'].shape[:2]
        top = max(0, round((height - self.size) / 2))
        left = max(0, round((width - self.size) / 2))
        results['img'] = results['img'][top : top + self.size, left : left + self.size]
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """Pack an image and its label for a classifier."""

    def transform(self, results: dict) -> dict:
        """``inputs``, uint8 (3, H, W), and ``data_samples`` with ``gt_label``
        (where there is one) and ``img_path``."""
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        sample = BaseDataElement(metainfo=dict(img_path=results.get('img_path')))
        if 'gt_label' in results:
            sample.gt_label = torch.tensor(results['gt_label'])
        return dict(inputs=torch.from_numpy(image), data_samples=sample)
