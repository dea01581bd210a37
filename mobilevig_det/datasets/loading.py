"""Load annotations with bitmap masks that keep the box of each instance only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import mmcv
import mmdet.datasets.transforms
import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from torch import Tensor


class Patch(NamedTuple):
    """Part of a mask; the rest of it is zero.

    Attributes:
        top: First row, in pixels of the image.
        left: First column.
        bits: Zeros and ones, uint8 of shape (h, w).
    """

    top: int
    left: int
    bits: np.ndarray

    def take(self, rows: np.ndarray, columns: np.ndarray) -> 'Patch':
        """Crop or resize the mask by choosing rows and columns of the image.

        Args:
            rows (np.ndarray): Row of the image that each row of the result is taken
                from, in ascending order.
            columns (np.ndarray): Likewise for columns.
        """
        height, width = self.bits.shape
        top, bottom = np.searchsorted(rows, (self.top, self.top + height))
        left, right = np.searchsorted(columns, (self.left, self.left + width))
        bits = self.bits.take(columns[left:right] - self.left, axis=1)
        bits = bits.take(rows[top:bottom] - self.top, axis=0)
        return Patch(int(top), int(left), bits)


def nearest_pixels(length: int, new_length: int, axis: int) -> np.ndarray:
    """Return the rows or columns that OpenCV takes to resize to the nearest pixel.

    An image of the numbers of rows or columns is resized, which gives the rounding of
    the installed OpenCV.

    Args:
        length (int): Rows or columns of the image.
        new_length (int): Rows or columns of the resized image.
        axis (int): 0 for rows, 1 for columns.

    Returns:
        np.ndarray: int32 of shape (new_length, ).
    """
    numbers = np.arange(length, dtype='<i4').view(np.uint8).reshape(length, 4)
    if axis == 0:
        numbers = mmcv.imresize(numbers, (4, new_length), interpolation='nearest')
    else:
        numbers = np.ascontiguousarray(numbers.T)
        numbers = mmcv.imresize(numbers, (new_length, 4), interpolation='nearest').T
    return np.ascontiguousarray(numbers).view('<i4')[:, 0]


class CompactBitmapMasks(BitmapMasks):
    """MMDetection's ``BitmapMasks`` in a fraction of the memory and time.

    All methods return what those of ``BitmapMasks`` return. A pickle, as it goes from
    a worker to the training process, has a bit per pixel.

    Once the full array is asked for, by ``masks``, ``to_ndarray()`` or a method that
    isn't overridden here (such as ``rotate``), the object turns into a
    ``BitmapMasks``, since the array may be written to.

    Args:
        masks (list[np.ndarray] | np.ndarray): Masks at full size, (N, H, W), which
            are kept as they are. Use :meth:`from_bitmaps` for compact ones.
        height (int): H, in pixels.
        width (int): W, in pixels.
    """

    _patches: list[Patch]

    @classmethod
    def from_bitmaps(
        cls, masks: Sequence[np.ndarray], height: int, width: int
    ) -> 'CompactBitmapMasks':
        """Store the bounding boxes of masks.

        Args:
            masks (Sequence[np.ndarray]): Zeros and ones, uint8 of shape (H, W) each.
            height (int): H.
            width (int): W.
        """
        patches = []
        for mask in masks:
            # pycocotools returns arrays in Fortran order; the transpose is in C order.
            top, left, h, w = cv2.boundingRect(np.ascontiguousarray(mask.T))
            bits = np.ascontiguousarray(mask[top : top + h, left : left + w])
            patches.append(Patch(top, left, bits))
        return cls._of(patches, height, width)

    @classmethod
    def _of(cls, patches: list[Patch], height: int, width: int) -> 'CompactBitmapMasks':
        self = cls.__new__(cls)
        self.height, self.width, self._patches = height, width, patches
        return self

    @property
    def masks(self) -> np.ndarray:
        """Masks at full size, uint8 of shape (N, H, W); see the class."""
        self.masks = self._full()
        return self.masks

    @masks.setter
    def masks(self, masks: np.ndarray) -> None:
        self.__dict__.pop('_patches', None)
        self.__class__ = BitmapMasks
        self.masks = masks

    def _full(self) -> np.ndarray:
        return self.to_tensor(torch.uint8, 'cpu').numpy()

    def __getstate__(self) -> dict[str, Any]:
        bits = [patch.bits.reshape(-1) for patch in self._patches]
        return dict(
            height=self.height,
            width=self.width,
            boxes=[(p.top, p.left, *p.bits.shape) for p in self._patches],
            bits=np.packbits(np.concatenate(bits)) if bits else None,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.height, self.width = state['height'], state['width']
        self._patches, boxes = [], state['boxes']
        if boxes:
            ends = np.cumsum([h * w for _, _, h, w in boxes])
            bits = np.unpackbits(state['bits'], count=ends[-1])
            self._patches = [
                Patch(top, left, part.reshape(h, w))
                for (top, left, h, w), part in zip(boxes, np.split(bits, ends[:-1]))
            ]

    def __len__(self) -> int:
        return len(self._patches)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_masks={len(self)}, '
            f'height={self.height}, width={self.width})'
        )

    def __getitem__(self, index) -> BitmapMasks:
        if isinstance(index, tuple):
            return super().__getitem__(index)
        chosen = np.arange(len(self))[index].reshape(-1)
        return self._of([self._patches[i] for i in chosen], self.height, self.width)

    def rescale(self, scale, interpolation: str = 'nearest') -> BitmapMasks:
        """Resize by a factor, or to fit (long, short) in pixels, keeping the ratio."""
        if interpolation != 'nearest':
            return super().rescale(scale, interpolation)
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(
        self, out_shape: tuple[int, int], interpolation: str = 'nearest'
    ) -> BitmapMasks:
        """Resize to ``out_shape``, (H, W)."""
        if interpolation != 'nearest':
            return super().resize(out_shape, interpolation)
        rows = nearest_pixels(self.height, out_shape[0], 0)
        columns = nearest_pixels(self.width, out_shape[1], 1)
        return self._of([p.take(rows, columns) for p in self._patches], *out_shape)

    def flip(self, flip_direction: str = 'horizontal') -> BitmapMasks:
        """Flip 'horizontal', 'vertical' or 'diagonal', which is both."""
        assert flip_direction in ('horizontal', 'vertical', 'diagonal')
        patches = self._patches
        if flip_direction != 'vertical':
            patches = [
                Patch(t, self.width - left - bits.shape[1], bits[:, ::-1].copy())
                for t, left, bits in patches
            ]
        if flip_direction != 'horizontal':
            patches = [
                Patch(self.height - top - bits.shape[0], left, bits[::-1].copy())
                for top, left, bits in patches
            ]
        return self._of(patches, self.height, self.width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """Pad to ``out_shape``, (H, W), at the bottom and on the right."""
        is_smaller = out_shape[0] < self.height or out_shape[1] < self.width
        if pad_val != 0 or is_smaller:
            return super().pad(out_shape, pad_val)
        return self._of(self._patches, *out_shape)

    def crop(self, bbox: np.ndarray) -> BitmapMasks:
        """Crop to the box (x1, y1, x2, y2), integers, clipped to the image."""
        if not isinstance(bbox, np.ndarray):
            return super().crop(bbox)
        x1, x2 = np.clip(bbox[0::2], 0, self.width)
        y1, y2 = np.clip(bbox[1::2], 0, self.height)
        if bbox.dtype.kind != 'i' or x1 >= x2 or y1 >= y2:
            return super().crop(bbox)
        rows, columns = np.arange(y1, y2), np.arange(x1, x2)
        patches = [patch.take(rows, columns) for patch in self._patches]
        return self._of(patches, y2 - y1, x2 - x1)

    def crop_and_resize(
        self, bboxes, out_shape: tuple[int, int], inds, device='cpu',
        interpolation: str = 'bilinear', binarize: bool = True,
    ) -> BitmapMasks:  # fmt: skip
        """Compute the mask targets of RoIs.

        ``BitmapMasks`` copies an instance's mask for each of its RoIs. Here RoIAlign
        gets each mask once, and computes the same.

        Args:
            bboxes (np.ndarray | Tensor): RoIs (x1, y1, x2, y2), of shape (N, 4).
            out_shape (tuple[int, int]): Height and width of the targets, (h, w).
            inds (np.ndarray | Tensor): Index of the mask for each RoI, (N, ).
            device (str | torch.device): Where to compute. Defaults to 'cpu'.
            interpolation (str): Without effect, as in MMDetection.
            binarize (bool): Whether to return True where a target is 0.5 or more.
                Defaults to True.

        Returns:
            BitmapMasks: N masks of shape (h, w).
        """
        if not len(self) or not len(bboxes):
            return super().crop_and_resize(
                bboxes, out_shape, inds, device, interpolation, binarize
            )
        bboxes = torch.as_tensor(bboxes)
        assigned, image = torch.as_tensor(inds).cpu().unique(return_inverse=True)
        maps = self[assigned.numpy()].to_tensor(bboxes.dtype, device)
        # All RoIs at once, in their order: matrix products of our RoIAlign round
        # differently for another number of them.
        rois = torch.cat([image[:, None].to(bboxes), bboxes], 1).to(device)
        targets = roi_align(maps[:, None], rois, out_shape, 1.0, 0, 'avg', True)
        targets = targets.squeeze(1)
        return BitmapMasks(
            (targets >= 0.5 if binarize else targets).cpu().numpy(), *out_shape
        )

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask, (N, )."""
        return np.array([patch.bits.sum() for patch in self._patches], dtype=np.uint)

    def to_tensor(self, dtype: torch.dtype, device) -> Tensor:
        """Return the masks at full size, (N, H, W)."""
        size = len(self._patches), self.height, self.width
        masks = torch.zeros(size, dtype=dtype, device=device)
        if not len(self):
            return masks
        # Copied in one piece: the CPU waits for each copy to a GPU.
        bits = np.concatenate([patch.bits.reshape(-1) for patch in self._patches])
        parts = torch.from_numpy(bits).to(masks.device)
        parts = parts.split([patch.bits.size for patch in self._patches])
        for mask, (top, left, bits), part in zip(masks, self._patches, parts):
            height, width = bits.shape
            here = mask[top : top + height, left : left + width]
            here.copy_(part.view(height, width))
        return masks

    def get_bboxes(self, dst_type: str = 'hbb'):
        """Return the bounding boxes of the masks, of MMDetection's ``dst_type``."""
        # Of a copy, so that this object stays compact.
        copy = BitmapMasks(self._full(), self.height, self.width)
        return copy.get_bboxes(dst_type)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BitmapMasks:
        """Concatenate masks; the result is compact if all of them are."""
        if masks and all(isinstance(m, cls) for m in masks):
            sizes = {(m.height, m.width) for m in masks}
            if len(sizes) == 1:
                patches = [patch for m in masks for patch in m._patches]
                return cls._of(patches, *sizes.pop())
        return BitmapMasks.cat(masks)


@TRANSFORMS.register_module()
class LoadCompactAnnotations(mmdet.datasets.transforms.LoadAnnotations):
    """MMDetection's ``LoadAnnotations`` with compact masks.

    Its arguments and what reaches the model are the same, but bitmap masks are loaded
    as :class:`CompactBitmapMasks`.
    """

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
