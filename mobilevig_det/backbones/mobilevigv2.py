"""MobileViGv2 backbone.

Source: Scaling Graph Convolutions for Mobile Vision (CVPRW 2024, arXiv 2406.05850),
section 3 and table 1.
"""

from collections.abc import Callable, Sequence
from functools import partial

from mmdet.registry import MODELS
from torch import Tensor

from ..ops import cross_max
from .base import BaseBackbone


@MODELS.register_module()
class MobileViGv2(BaseBackbone):
    """MobileViGv2 backbone.

    A PyTorch implementation of `Scaling Graph Convolutions for Mobile Vision
    <https://arxiv.org/abs/2406.05850>`_: MBConv blocks, followed by graph blocks from
    stage 2 on, in which a pixel is connected to four others.

    Args:
        arch (str | dict): 'ti', 's', 'm' or 'b', or a dict with the four stages'
            ``channels``, ``blocks`` (MBConv) and ``graph_blocks``. Defaults to 'm'.
        graph_strides (Sequence[int], optional): Distances K between the graph
            neighbours in the four stages, in pixels of their maps. Defaults to
            None: (16, 8, 4, 2).
        others: See :class:`.MobileViG`. With ``drop_path_rate`` p, the rates are the
            authors': of linspace(0, p, all blocks), each graph block takes the next
            one, and an MBConv has the rate of the graph block that follows. So the
            last rate in use is about 0.3 p.

    Raises:
        UserError: As :class:`.MobileViG`.

    Examples:
        >>> import torch
        >>> from mobilevig_det import MobileViGv2
        >>> MobileViGv2.out_channels('m')
        [32, 64, 192, 384]
        >>> model = MobileViGv2('m').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 32, 16, 24)
        (1, 64, 8, 12)
        (1, 192, 4, 6)
        (1, 384, 2, 3)
    """

    arch_settings = {
        'ti': dict(
            channels=(32, 64, 128, 256), blocks=(2, 2, 6, 2), graph_blocks=(0, 2, 2, 2)
        ),
        's': dict(
            channels=(32, 64, 128, 256), blocks=(3, 3, 9, 3), graph_blocks=(0, 3, 3, 3)
        ),
        'm': dict(
            channels=(32, 64, 192, 384), blocks=(3, 3, 9, 3), graph_blocks=(0, 3, 3, 3)
        ),
        'b': dict(
            channels=(64, 128, 256, 512), blocks=(3, 3, 9, 3), graph_blocks=(0, 3, 3, 3)
        ),
    }
    graph_strides = (16, 8, 4, 2)
    rates_skip_mbconv = True

    @staticmethod
    def graph_step(
        stage: int, channels: int, strides: Sequence[int]
    ) -> Callable[[Tensor], Tensor]:
        """Return the graph step of a stage."""
        return partial(cross_max, stride=strides[stage])
