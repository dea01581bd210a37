"""GreedyViG backbone.

Source: GreedyViG: Dynamic Axial Graph Construction for Efficient Vision GNNs (CVPR
2024, arXiv 2405.06849), section 3 and table 1.
"""

from collections.abc import Callable, Sequence
from functools import partial

from mmdet.registry import MODELS
from torch import Tensor

from ..ops import thresholded_max
from .base import BaseBackbone


@MODELS.register_module()
class GreedyViG(BaseBackbone):
    """GreedyViG backbone.

    A PyTorch implementation of `GreedyViG: Dynamic Axial Graph Construction for
    Efficient Vision GNNs <https://arxiv.org/abs/2405.06849>`_: MBConv blocks and then
    graph blocks in every stage. In a graph block a pixel is connected to the similar
    pixels of its column and row.

    Pixels are similar if their distance is below a threshold, which depends on the
    complete padded map: a different rounding or padding may include another pixel and
    change features noticeably.

    Args:
        arch (str | dict): 's', 'm' or 'b', or a dict with the four stages'
            ``channels``, ``blocks`` (MBConv) and ``graph_blocks``. Defaults to 'm'.
        graph_strides (Sequence[int], optional): Distances K between the graph
            neighbours in the four stages, in pixels of their maps. Defaults to
            None: (8, 4, 2, 1).
        others: See :class:`.MobileViG`.

    Raises:
        UserError: As :class:`.MobileViG`.

    Examples:
        >>> import torch
        >>> from mobilevig_det import GreedyViG
        >>> GreedyViG.out_channels('s')
        [48, 96, 192, 384]
        >>> model = GreedyViG('s').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 48, 16, 24)
        (1, 96, 8, 12)
        (1, 192, 4, 6)
        (1, 384, 2, 3)
    """

    arch_settings = {
        's': dict(
            channels=(48, 96, 192, 384), blocks=(2, 2, 6, 2), graph_blocks=(2, 2, 2, 2)
        ),
        'm': dict(
            channels=(56, 112, 224, 448), blocks=(3, 3, 9, 3), graph_blocks=(3, 3, 3, 3)
        ),
        'b': dict(
            channels=(64, 128, 256, 512),
            blocks=(4, 4, 12, 3),
            graph_blocks=(4, 4, 4, 3),
        ),
    }
    graph_strides = (8, 4, 2, 1)
    flat_layer_scale = True

    @staticmethod
    def graph_step(
        stage: int, channels: int, strides: Sequence[int]
    ) -> Callable[[Tensor], Tensor]:
        """Return the graph step of a stage."""
        return partial(thresholded_max, stride=strides[stage])
