"""A classifier that learns from the labels and from a teacher."""

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from .classifier import ImageClassifier
from .teacher import Teacher


@MODELS.register_module()
class DistillingClassifier(ImageClassifier):
    """Hard distillation: ``head`` learns the labels, ``dist_head`` what the
    teacher takes each image for.

    Source: DeiT (arXiv 2012.12877), equation 3. The teacher sees the mixed
    images, as the student does.

    Args:
        teacher (dict): ``model``, a name of timm's, and ``checkpoint``, its
            file: a path or an address.
        alpha (float): The teacher's part of the loss. Defaults to 0.5.
        others: See :class:`.ImageClassifier`.
    """

    def __init__(self, *args, teacher: dict, alpha: float = 0.5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = Teacher(num_classes=self.head.num_classes, **teacher)
        self.alpha = alpha

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses of both classifiers.

        Args:
            inputs (Tensor): Normalised images, (B, 3, H, W).
            targets (Tensor): Labels, (B,), or probabilities, (B, num_classes).
        """
        first, second = self.head(self.backbone(inputs))
        taught = self.teacher(inputs)
        return dict(
            loss_head=(1 - self.alpha) * F.cross_entropy(first, targets),
            loss_dist_head=self.alpha * F.cross_entropy(second, taught),
        )
