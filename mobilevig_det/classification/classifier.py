"""A backbone and a head that tell what an image shows, under MMEngine."""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..checkpoints.key_mapping import CLASSIFIER_PREFIXES, is_authors_layout
from ..errors import UserError


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Classify images: backbone, then head.

    Loads the authors' ImageNet files, backbone and classifier, as well as its
    own checkpoints.

    Args:
        backbone (dict): Config of the backbone.
        head (dict): Config of a :class:`.DistilledHead`.
        data_preprocessor (dict, optional): Config of a
            :class:`.ClassifierPreprocessor`.
        init_cfg (dict, optional): Initialization config of the whole.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        preprocessor = data_preprocessor or dict(type='ClassifierPreprocessor')
        super().__init__(MODELS.build(preprocessor), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = MODELS.build(head)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
        targets: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """Run the model.

        Args:
            inputs (Tensor): Normalised images, (B, 3, H, W).
            data_samples (list[BaseDataElement], optional): With ``gt_label``
                for the loss without targets; predictions are added to them.
            mode (str): 'tensor' for the logits, (B, num_classes), the mean of
                both classifiers; 'loss' for a dict of losses; 'predict' for
                samples with ``pred_score``, (num_classes,), and ``pred_label``.
            targets (Tensor, optional): Probabilities of the classes, (B,
                num_classes), for the loss.
        """
        if mode == 'loss':
            if targets is None:
                targets = torch.stack([s.gt_label for s in data_samples or ()])
                targets = targets.to(inputs.device)
            return self.loss(inputs, targets)
        first, second = self.head(self.backbone(inputs))
        logits = (first + second) / 2
        if mode == 'tensor':
            return logits
        if mode == 'predict':
            return self._predictions(logits, data_samples)
        raise UserError(f"mode must be 'tensor', 'loss' or 'predict', not {mode!r}.")

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross entropy of both classifiers with the targets, in equal parts.

        Args:
            inputs (Tensor): Normalised images, (B, 3, H, W).
            targets (Tensor): Labels, (B,), or probabilities, (B, num_classes).
        """
        first, second = self.head(self.backbone(inputs))
        return dict(
            loss_head=0.5 * F.cross_entropy(first, targets),
            loss_dist_head=0.5 * F.cross_entropy(second, targets),
        )

    @staticmethod
    def _predictions(
        logits: Tensor, data_samples: list[BaseDataElement] | None
    ) -> list[BaseDataElement]:
        samples = data_samples or [BaseDataElement() for _ in logits]
        for sample, scores in zip(samples, logits.softmax(1)):
            sample.pred_score = scores
            sample.pred_label = scores.argmax()
        return samples

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # The authors' names have no 'backbone.' and 'head.' in front.
        inner = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        if is_authors_layout(inner):
            renamed = {}
            for key in inner:
                room = 'head.' if key.startswith(CLASSIFIER_PREFIXES) else 'backbone.'
                renamed[prefix + room + key] = state_dict.pop(prefix + key)
            state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
