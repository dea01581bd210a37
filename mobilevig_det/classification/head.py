"""The classifier behind the backbone, as the authors have it."""

from collections.abc import Sequence

import torch.nn as nn
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ..backbones.base import KAIMING
from ..errors import UserError

CLASSIFIERS = ('head', 'dist_head')


@MODELS.register_module()
class DistilledHead(BaseModule):
    """Pool, 1x1 convolution, BatchNorm, GELU, then two 1x1 classifiers.

    Its weights have the authors' names: ``prediction``, ``head`` and
    ``dist_head``, of which the second is taught by the labels and the third by
    a teacher. Source: the paper's section 3.3, and the authors' code.

    Args:
        in_channels (int): Channels of the backbone's last stage.
        hidden_channels (int): Width of the 1x1 convolution: 512 for Ti and S,
            768 for M and B.
        num_classes (int): Classes. Defaults to 1000.
        dropout (float): Rate of the dropout before the classifiers. Defaults
            to 0, as in every published run.
        init_cfg (dict, optional): Defaults to None: Kaiming normal weights,
            zero biases.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int = 1000,
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        self.num_classes = num_classes
        self.prediction = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, hidden_channels, 1),
            nn.BatchNorm2d(hidden_channels),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(hidden_channels, num_classes, 1)
        self.dist_head = nn.Conv2d(hidden_channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of both classifiers, each (B, num_classes).

        Args:
            features (Sequence[Tensor]): The backbone's maps; the last one is
                used, (B, in_channels, H, W).
        """
        x = self.prediction(features[-1])
        return self.head(x).flatten(1), self.dist_head(x).flatten(1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # Here, before any child: whatever loads the file, strictly or not,
        # gets one message, and no head keeps its random weights.
        check_head(state_dict, self.state_dict(), prefix, self.num_classes)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_head(
    weights: dict[str, Tensor], own: dict[str, Tensor], prefix: str, num_classes: int
) -> None:
    """Raise a UserError unless the weights of a head are all there, and fit.

    Args:
        weights (dict): The checkpoint's.
        own (dict): The head's ``state_dict()``.
        prefix (str): What stands before the head's names in the checkpoint.
        num_classes (int): The head's.
    """
    wanted = {
        key: tuple(value.shape)
        for key, value in own.items()
        if not key.endswith('num_batches_tracked')
    }
    given = {
        key: tuple(weights[prefix + key].shape)
        for key in wanted
        if prefix + key in weights
    }
    if not given:
        raise UserError(
            'The checkpoint has no classifier (prediction, head, dist_head): it is '
            "of a backbone or a detector. Use an ImageNet file, or a classifier's "
            'own checkpoint.'
        )
    missing = [key for key in wanted if key not in given]
    if missing:
        raise UserError(
            "The checkpoint's classifier lacks "
            f'{", ".join(missing[:4])}: it is of another model, or not complete.'
        )
    if given == wanted:
        return
    classes = given['head.weight'][0]
    if classes != num_classes:
        raise UserError(
            f"The checkpoint's classifier is of {classes} classes, this config's of "
            f'{num_classes}: use the config that it was trained with. To train for '
            'other classes, load the backbone alone: model.backbone.init_cfg='
            "dict(type='Pretrained', checkpoint='mobilevig:///path/to/file')."
        )
    key = next(key for key in wanted if given[key] != wanted[key])
    raise UserError(
        f"The checkpoint's classifier does not fit: {key} is {given[key]} instead of "
        f'{wanted[key]}. Use the config of its size.'
    )
