"""Annotations, with masks that are kept within their boxes."""

import mmdet.datasets.transforms
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks

from .compact_masks import CompactBitmapMasks


@TRANSFORMS.register_module()
class LoadCompactAnnotations(mmdet.datasets.transforms.LoadAnnotations):
    """MMDetection's ``LoadAnnotations``, with its arguments. Bitmap masks are
    loaded as :class:`CompactBitmapMasks`: what reaches the model is equal."""

    def _load_masks(self, results: dict) -> None:
        if not self.poly2mask:
            super()._load_masks(results)
            return
        height, width = results['ori_shape']
        masks = [
            self._poly2mask(mask, height, width)
            for mask in self._process_masks(results)
        ]
        # An RLE of another size than its image is MMDetection's to judge.
        fit = all(mask.shape == (height, width) for mask in masks)
        make = CompactBitmapMasks.from_bitmaps if fit else BitmapMasks
        results['gt_masks'] = make(masks, height, width)
