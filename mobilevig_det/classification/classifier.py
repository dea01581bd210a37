"""ImageNet classifier for MMEngine, with the authors' heads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModel, BaseModule
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..backbones.base import KAIMING
from ..checkpoints import explain_mismatch, find_file, read_checkpoint
from ..checkpoints.diagnosis import find_misfits
from ..checkpoints.key_mapping import is_authors_layout, with_parts
from ..checkpoints.reading import both_weights
from ..errors import UserError


class ClassifierHead(BaseModule):
    """Base class of the heads, which load their weights strictly.

    Attributes:
        classifiers: Names of the last layers, each of which is a classifier.

    Args:
        num_classes (int): Number of classes.
        init_cfg (dict, optional): Initialization config.
    """

    classifiers: tuple[str, ...] = ()

    def __init__(self, num_classes: int, init_cfg: dict | None) -> None:
        super().__init__(init_cfg or KAIMING)
        self.num_classes = num_classes

    def _load_from_state_dict(self, weights: dict, prefix: str, *args, **kwargs):
        # Checked here, before any child, so that every way to load a file, strict or
        # not, raises the same message, and no head keeps its random weights.
        own = self.state_dict()
        given = {key: weights[prefix + key] for key in own if prefix + key in weights}
        if misfits := find_misfits(given, own):
            raise UserError(
                f"The checkpoint's classifier {self._explain(misfits, given)}"
            )
        super()._load_from_state_dict(weights, prefix, *args, **kwargs)

    def _explain(self, misfits: dict[str, list[str]], given: dict[str, Tensor]) -> str:
        """Explain why weights do not fit, and what to do."""
        if not given:
            return (
                '(prediction, head, dist_head) is missing: the file is of a backbone '
                "or a detector. Use an ImageNet file, or a classifier's checkpoint."
            )
        if 'missing' in misfits:
            missing = ', '.join(misfits['missing'][:4])
            return f'lacks {missing}: it belongs to another model, or is incomplete.'
        classes = len(given[f'{self.classifiers[0]}.weight'])
        if classes != self.num_classes:
            return (
                f"has {classes} classes, this config's {self.num_classes}: use the "
                'config that it was trained with. To train for other classes, load '
                'only the backbone: model.backbone.init_cfg='
                "dict(type='Pretrained', checkpoint='mobilevig:///path/to/file')."
            )
        kind, names = next(iter(misfits.items()))
        return f'does not fit ({kind}: {names[0]}). Use the config of its size.'


@MODELS.register_module()
class DistilledHead(ClassifierHead):
    """Pooling, 1x1 convolution, BatchNorm, GELU, then two 1x1 classifiers.

    The weights have the authors' names ``prediction``, ``head`` and ``dist_head``.
    ``head`` learns from the labels, ``dist_head`` from a teacher. Source: section 3.3
    of the paper, and the authors' code.

    Args:
        in_channels (int): Channels of the backbone's last stage.
        hidden_channels (int): Width of the 1x1 convolution: 512 for Ti and S, 768 for
            M and B.
        num_classes (int): Number of classes. Defaults to 1000.
        dropout (float): Dropout rate before the classifiers. Defaults to 0, as in
            every published run.
        init_cfg (dict, optional): Initialization config. Defaults to None: Kaiming
            normal weights, zero biases.
    """

    classifiers = ('head', 'dist_head')

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int = 1000,
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_classes, init_cfg)
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
        """Compute the logits of both classifiers.

        Args:
            features (Sequence[Tensor]): Feature maps of the backbone. Only the last
                one, of shape (B, in_channels, H, W), is used.

        Returns:
            tuple[Tensor, Tensor]: Logits of ``head`` and ``dist_head``, each of shape
            (B, num_classes).
        """
        x = self.prediction(features[-1])
        return self.head(x).flatten(1), self.dist_head(x).flatten(1)


@MODELS.register_module()
class PyramidHead(ClassifierHead):
    """Pooling, 1x1 convolution, BatchNorm, GELU, then one 1x1 classifier.

    This is the head of Pyramid ViG. Its weights have the authors' name ``prediction``.

    Args:
        in_channels (int): Channels of the backbone's last stage.
        hidden_channels (int): Width of the first convolution. Defaults to 1024.
        num_classes (int): Number of classes. Defaults to 1000.
        dropout (float): Dropout rate before the classifier. Defaults to 0.
        init_cfg (dict, optional): Initialization config. Defaults to None: Kaiming
            normal weights, zero biases.
    """

    classifiers = ('prediction.4',)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 1024,
        num_classes: int = 1000,
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_classes, init_cfg)
        self.prediction = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 1),
            nn.BatchNorm2d(hidden_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden_channels, num_classes, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor]:
        """Compute the logits.

        Args:
            features (Sequence[Tensor]): Feature maps of the backbone. Only the last
                one, of shape (B, in_channels, H, W), is used.

        Returns:
            tuple[Tensor]: Logits of shape (B, num_classes), in a tuple of one.
        """
        x = F.adaptive_avg_pool2d(features[-1], 1)
        return (self.prediction(x).flatten(1),)


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Image classifier that consists of a backbone and a head.

    It loads its own checkpoints as well as the authors' ImageNet files.

    Args:
        backbone (dict): Config of the backbone.
        head (dict): Config of a :class:`.DistilledHead` or :class:`.PyramidHead`.
        data_preprocessor (dict, optional): Config of a
            :class:`.ClassifierPreprocessor`.
        init_cfg (dict, optional): Initialization config of the classifier.
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
            inputs (Tensor): Normalized images of shape (B, 3, H, W).
            data_samples (list[BaseDataElement], optional): One sample per image. The
                loss reads their ``gt_label`` if there are no ``targets``; predictions
                are stored in them.
            mode (str): 'tensor', 'loss' or 'predict'. Defaults to 'tensor'.
            targets (Tensor, optional): Target probabilities of shape
                (B, num_classes), for the loss.

        Returns:
            Tensor | dict[str, Tensor] | list[BaseDataElement]: In the mode 'tensor',
            logits of shape (B, num_classes), the mean of the classifiers; in 'loss', a
            dict of losses; in 'predict', the samples with ``pred_score`` of shape
            (num_classes,) and ``pred_label``.

        Raises:
            UserError: If the mode is unknown.
        """
        if mode == 'loss':
            if targets is None:
                targets = torch.stack([s.gt_label for s in data_samples or ()])
                targets = targets.to(inputs.device)
            return self.loss(inputs, targets)
        outputs = self.head(self.backbone(inputs))
        logits = sum(outputs) / len(outputs)
        if mode == 'tensor':
            return logits
        if mode != 'predict':
            raise UserError(
                f"mode must be 'tensor', 'loss' or 'predict', not {mode!r}."
            )
        samples = data_samples or [BaseDataElement() for _ in logits]
        for sample, scores in zip(samples, logits.softmax(1)):
            sample.pred_score = scores
            sample.pred_label = scores.argmax()
        return samples

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the cross-entropy of each classifier, with equal weights.

        Args:
            inputs (Tensor): Normalized images of shape (B, 3, H, W).
            targets (Tensor): Labels of shape (B,), or probabilities of shape
                (B, num_classes).

        Returns:
            dict[str, Tensor]: Scalar losses by name.
        """
        outputs = self.head(self.backbone(inputs))
        names = ('loss_head', 'loss_dist_head')
        return {
            name: F.cross_entropy(logits, targets) / len(outputs)
            for name, logits in zip(names, outputs)
        }

    def _load_from_state_dict(self, weights: dict, prefix: str, *args, **kwargs):
        names = [k[len(prefix) :] for k in weights if k.startswith(prefix)]
        if is_authors_layout(names):
            own = {name: weights.pop(prefix + name) for name in names}
            weights.update({prefix + k: v for k, v in with_parts(own).items()})
        super()._load_from_state_dict(weights, prefix, *args, **kwargs)


def load_classifier(
    model: ImageClassifier, checkpoint: str, averaged: bool = False
) -> tuple[str, ...] | None:
    """Load all weights of a classifier, those of the backbone and the head, strictly.

    The raw weights are the default, because the published top-1 accuracy is theirs.

    Args:
        model (ImageClassifier): The model that gets the weights.
        checkpoint (str): ImageNet file of the authors, or a checkpoint of this
            package: a path, an address, or ``mobilevig://`` and a name.
        averaged (bool): Whether to load the averaged weights instead. Defaults to
            False.

    Returns:
        tuple[str, ...] | None: Names of the classes, if the file has them.

    Raises:
        UserError: If the file can't be found or read, doesn't fit the model, or has no
            averaged weights although they were asked for.
    """
    path = find_file(checkpoint)
    content = read_checkpoint(path)
    weights = both_weights(content)
    chosen = weights.averaged if averaged else weights.raw
    if chosen is None:
        raise UserError(
            f'{path} has no averaged weights (state_dict_ema, or those of '
            "MMEngine's EMAHook): evaluate the raw ones, without --ema."
        )
    with explain_mismatch(str(path)):
        model.load_state_dict(dict(chosen), strict=True)
    meta = content.get('meta')
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else None
    return tuple(dataset['classes']) if dataset and 'classes' in dataset else None
