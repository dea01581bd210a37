"""Bitmap masks that keep what lies within the box of each instance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.structures.mask import BitmapMasks
from torch import Tensor


class Patch(NamedTuple):
    """The ones of an instance, and where they are; everywhere else are zeros."""

    top: int
    left: int
    bits: np.ndarray  # uint8, (h, w)

    def taken(self, rows: np.ndarray, columns: np.ndarray) -> 'Patch':
        """What is left where rows and columns of the image are repeated or left
        out.

        Args:
            rows (np.ndarray): Ascending, of the image before.
            columns (np.ndarray): Likewise.
        """
        height, width = self.bits.shape
        top, bottom = np.searchsorted(rows, (self.top, self.top + height))
        left, right = np.searchsorted(columns, (self.left, self.left + width))
        bits = self.bits.take(columns[left:right] - self.left, axis=1)
        bits = bits.take(rows[top:bottom] - self.top, axis=0)
        return Patch(int(top), int(left), bits)


def nearest(length: int, new: int, axis: int) -> np.ndarray:
    """The row (axis 0) or column (1) that each one is taken from when an image is
    resized to the nearest pixel, by resizing an image of their numbers."""
    numbers = np.arange(length, dtype='<i4').view(np.uint8).reshape(length, 4)
    if axis == 0:
        numbers = mmcv.imresize(numbers, (4, new), interpolation='nearest')
    else:
        numbers = np.ascontiguousarray(numbers.T)
        numbers = mmcv.imresize(numbers, (new, 4), interpolation='nearest').T
    return np.ascontiguousarray(numbers).view('<i4')[:, 0]


class CompactBitmapMasks(BitmapMasks):
    """MMDetection's ``BitmapMasks``, equal to them in all that they give, in a
    fraction of the memory, of the bytes of a pickle, and of the time.

    What only looks at the whole images (rotating, shearing, translating, any
    interpolation but the nearest pixel) gives ``BitmapMasks``. Who reads ``masks``
    or ``to_ndarray()`` gets the full array, which may be written to: it is what
    counts from then on.

    Args:
        masks (list[np.ndarray] | np.ndarray): Full size, (N, H, W). See
            :meth:`from_bitmaps` for masks to be kept within their boxes.
        height (int): Of the image, in pixels.
        width (int): Likewise.
    """

    _full: np.ndarray | None
    _patches: list[Patch]

    @classmethod
    def from_bitmaps(
        cls, masks: Sequence[np.ndarray], height: int, width: int
    ) -> 'CompactBitmapMasks':
        """Keep the boxes of masks.

        Args:
            masks (Sequence[np.ndarray]): Of zeros and ones, uint8, (H, W) each.
            height (int): H.
            width (int): W.
        """
        patches = []
        for mask in masks:
            # pycocotools' are in Fortran's order: the transposed one is in C's.
            top, left, h, w = cv2.boundingRect(np.ascontiguousarray(mask.T))
            bits = np.ascontiguousarray(mask[top : top + h, left : left + w])
            patches.append(Patch(top, left, bits))
        return cls._of(patches, height, width)

    @classmethod
    def _of(cls, patches: list[Patch], height: int, width: int) -> 'CompactBitmapMasks':
        self = cls.__new__(cls)
        self.height, self.width = height, width
        self._full, self._patches = None, patches
        return self

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W). Writing to it changes the masks."""
        if self._full is None:
            self._full, self._patches = self._whole(), []
        return self._full

    @masks.setter
    def masks(self, masks: np.ndarray) -> None:
        self._full, self._patches = masks, []

    def _whole(self) -> np.ndarray:
        return self.to_tensor(torch.uint8, 'cpu').numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Bits, packed."""
        if self._full is not None:
            return dict(self.__dict__)
        bits = [patch.bits.reshape(-1) for patch in self._patches]
        return dict(
            height=self.height,
            width=self.width,
            boxes=[(p.top, p.left, *p.bits.shape) for p in self._patches],
            bits=np.packbits(np.concatenate(bits)) if bits else None,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        if 'boxes' not in state:
            self.__dict__.update(state)
            return
        self.height, self.width = state['height'], state['width']
        self._full, self._patches = None, []
        boxes = state['boxes']
        if boxes:
            parts = np.cumsum([h * w for _, _, h, w in boxes])
            bits = np.unpackbits(state['bits'], count=parts[-1])
            self._patches = [
                Patch(top, left, part.reshape(h, w))
                for (top, left, h, w), part in zip(boxes, np.split(bits, parts[:-1]))
            ]

    def __len__(self) -> int:
        return len(self._patches if self._full is None else self._full)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_masks={len(self)}, '
            f'height={self.height}, width={self.width})'
        )

    def __getitem__(self, index) -> BitmapMasks:
        if self._full is not None or isinstance(index, tuple):
            return super().__getitem__(index)
        chosen = np.arange(len(self))[index].reshape(-1)
        return self._like([self._patches[i] for i in chosen])

    def _like(
        self, patches: list[Patch], size: tuple[int, int] | None = None
    ) -> 'CompactBitmapMasks':
        return self._of(patches, *(size or (self.height, self.width)))

    def rescale(self, scale, interpolation: str = 'nearest') -> BitmapMasks:
        """As large as ``scale``, (long, short) in pixels or a factor, allows."""
        if self._full is not None or interpolation != 'nearest':
            return super().rescale(scale, interpolation)
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(
        self, out_shape: tuple[int, int], interpolation: str = 'nearest'
    ) -> BitmapMasks:
        """To ``out_shape``, (H, W)."""
        if self._full is not None or interpolation != 'nearest' or not len(self):
            return super().resize(out_shape, interpolation)
        rows = nearest(self.height, out_shape[0], 0)
        columns = nearest(self.width, out_shape[1], 1)
        patches = [patch.taken(rows, columns) for patch in self._patches]
        return self._like(patches, out_shape)

    def flip(self, flip_direction: str = 'horizontal') -> BitmapMasks:
        """'horizontal', 'vertical' or 'diagonal', which is both."""
        if self._full is not None:
            return super().flip(flip_direction)
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
        return self._like(patches)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """To ``out_shape``, (H, W), at the bottom and the right."""
        smaller = out_shape[0] < self.height or out_shape[1] < self.width
        if self._full is not None or pad_val != 0 or smaller:
            return super().pad(out_shape, pad_val)
        return self._like(self._patches, out_shape)

    def crop(self, bbox: np.ndarray) -> BitmapMasks:
        """To the box (x1, y1, x2, y2), integers, clipped to the image."""
        if self._full is not None or not isinstance(bbox, np.ndarray):
            return super().crop(bbox)
        x1, x2 = np.clip(bbox[0::2], 0, self.width)
        y1, y2 = np.clip(bbox[1::2], 0, self.height)
        if bbox.dtype.kind != 'i' or x1 >= x2 or y1 >= y2 or not len(self):
            return super().crop(bbox)
        rows, columns = np.arange(y1, y2), np.arange(x1, x2)
        patches = [patch.taken(rows, columns) for patch in self._patches]
        return self._like(patches, (y2 - y1, x2 - x1))

    def crop_and_resize(
        self, bboxes, out_shape: tuple[int, int], inds, device='cpu',
        interpolation: str = 'bilinear', binarize: bool = True,
    ) -> BitmapMasks:  # fmt: skip
        """The mask targets of RoIs.

        RoIAlign gets each instance's map once, and which one a RoI is assigned to
        as the index of its image. So it computes what it does for a map a RoI.

        Args:
            bboxes (np.ndarray | Tensor): (N, 4), x1, y1, x2, y2.
            out_shape (tuple[int, int]): (h, w).
            inds (np.ndarray | Tensor): Which mask, (N, ).
            device (str | torch.device): Where to compute. Defaults to 'cpu'.
            interpolation (str): Without effect, as in MMDetection.
            binarize (bool): Whether 0.5 and more is True, and less False. Defaults
                to True.

        Returns:
            BitmapMasks: (N, h, w).
        """
        if not len(self) or not len(bboxes):
            return super().crop_and_resize(
                bboxes, out_shape, inds, device, interpolation, binarize
            )
        bboxes = torch.as_tensor(bboxes)
        assigned, image = torch.as_tensor(inds).cpu().unique(return_inverse=True)
        maps = self[assigned.numpy()].to_tensor(bboxes.dtype, device)
        # All RoIs at once and in their order: our operator's matrix products would
        # round in another way for fewer.
        rois = torch.cat([image[:, None].to(bboxes), bboxes], 1).to(device)
        targets = roi_align(maps[:, None], rois, out_shape, 1.0, 0, 'avg', True)
        targets = targets.squeeze(1)
        return BitmapMasks(
            (targets >= 0.5 if binarize else targets).cpu().numpy(), *out_shape
        )

    def expand(
        self, expanded_h: int, expanded_w: int, top: int, left: int
    ) -> BitmapMasks:
        """Within an image of ``expanded_h`` by ``expanded_w`` zeros."""
        fits = 0 <= top <= expanded_h - self.height
        fits = fits and 0 <= left <= expanded_w - self.width
        if self._full is not None or not fits:
            return super().expand(expanded_h, expanded_w, top, left)
        patches = [Patch(top + t, left + le, bits) for t, le, bits in self._patches]
        return self._like(patches, (expanded_h, expanded_w))

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each, (N, )."""
        if self._full is not None:
            return super().areas
        return np.array([patch.bits.sum() for patch in self._patches], dtype=np.uint)

    def to_tensor(self, dtype: torch.dtype, device) -> Tensor:
        """(N, H, W)."""
        if self._full is not None:
            return super().to_tensor(dtype, device)
        size = len(self._patches), self.height, self.width
        masks = torch.zeros(size, dtype=dtype, device=device)
        if not len(self):
            return masks
        # In one piece: for each copy to a GPU the processor waits.
        bits = np.concatenate([patch.bits.reshape(-1) for patch in self._patches])
        parts = torch.from_numpy(bits).to(masks.device)
        parts = parts.split([patch.bits.size for patch in self._patches])
        for mask, (top, left, bits), part in zip(masks, self._patches, parts):
            height, width = bits.shape
            here = mask[top : top + height, left : left + width]
            here.copy_(part.view(height, width))
        return masks

    def get_bboxes(self, dst_type: str = 'hbb'):
        """The boxes of the ones, of MMDetection's type ``dst_type``."""
        whole = self._whole() if self._full is None else self._full
        return BitmapMasks(whole, self.height, self.width).get_bboxes(dst_type)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BitmapMasks:
        """One after the other; of other ``BitmapMasks``, too, as ``BitmapMasks``."""
        if masks and all(isinstance(m, cls) and m._full is None for m in masks):
            sizes = {(m.height, m.width) for m in masks}
            if len(sizes) == 1:
                patches = [patch for m in masks for patch in m._patches]
                return cls._of(patches, *sizes.pop())
        return BitmapMasks.cat(masks)
