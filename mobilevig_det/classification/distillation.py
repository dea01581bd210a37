"""Hard distillation: training of a classifier with labels and a teacher."""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..checkpoints import explain_mismatch, find_file, read_checkpoint
from ..checkpoints.reading import both_weights
from ..errors import UserError
from .classifier import ImageClassifier

EXTRA = 'pip install "mobilevig_det[imagenet]"'


def check_timm(model: str) -> None:
    """Check that timm, which builds the teacher, can be imported.

    Args:
        model (str): Name of the teacher in timm, for the message.

    Raises:
        UserError: If it can't be imported.
    """
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The teacher {model} needs timm, which cannot be imported ({error}): '
            f'{EXTRA}'
        ) from error


def build_teacher(model: str, checkpoint: str, num_classes: int) -> nn.Module:
    """Build a frozen timm model in evaluation mode and load its weights.

    Args:
        model (str): Name of the model in timm.
        checkpoint (str): Path or address of its file. The weights are bare, or under
            ``model`` (as in DeiT's files) or ``state_dict``.
        num_classes (int): Number of classes that it must have.

    Returns:
        nn.Module: The model.

    Raises:
        UserError: If timm is missing or has no such model, or if the file is missing
            or belongs to another model.
    """
    check_timm(model)
    import timm

    if model not in timm.list_models():
        raise UserError(f'timm {timm.__version__} has no model {model!r}.')
    weights = both_weights(read_checkpoint(find_file(checkpoint))).raw
    teacher = timm.create_model(model, pretrained=False, num_classes=num_classes)
    advice = (
        f'it is not a {model} with {num_classes} classes. Set model.teacher.model to '
        'the model that the file belongs to, or model.teacher.checkpoint to a file of '
        f'{model}'
    )
    with explain_mismatch(checkpoint, advice):
        teacher.load_state_dict(weights)
    return teacher.eval().requires_grad_(False)


class Teacher:
    """Teacher that is not registered as a submodule of the student.

    Because it is not an ``nn.Module``, checkpoints, the optimizer, ``train()`` and
    DistributedDataParallel ignore it, and copies of the student (by MMEngine's EMAHook)
    share it. Its file is read at the first call, so that testing needs no teacher.

    Args:
        model (str): Name of the model in timm.
        checkpoint (str): Path or address of its file.
        num_classes (int): Number of classes.
    """

    def __init__(self, model: str, checkpoint: str, num_classes: int) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.num_classes = num_classes
        self.network: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Predict classes of shape (B,) for normalized images of shape (B, 3, H, W)."""
        if self.network is None:
            self.network = build_teacher(self.model, self.checkpoint, self.num_classes)
        self.network.to(images.device)
        return self.network(images).argmax(1)


@MODELS.register_module()
class DistillingClassifier(ImageClassifier):
    """Classifier that is trained with hard distillation.

    ``head`` learns the labels, ``dist_head`` the classes that the teacher predicts.
    The teacher gets the same images as the student, after mixup and CutMix. Source:
    DeiT (arXiv 2012.12877), equation 3.

    Args:
        *args: Arguments of :class:`.ImageClassifier`.
        teacher (dict): ``model``, a name in timm, and ``checkpoint``, the path or
            address of its file.
        alpha (float): Weight of the teacher's loss. Defaults to 0.5.
        **kwargs: Further arguments of :class:`.ImageClassifier`.

    Raises:
        UserError: If the head has only one classifier.
    """

    def __init__(self, *args, teacher: dict, alpha: float = 0.5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if len(self.head.classifiers) != 2:
            raise UserError(
                f'{type(self.head).__name__} has one classifier, but distillation '
                "needs two: set head.type='DistilledHead', or the model's "
                "type='ImageClassifier', which has no teacher."
            )
        self.teacher = Teacher(num_classes=self.head.num_classes, **teacher)
        self.alpha = alpha

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both classifiers.

        Args:
            inputs (Tensor): Normalized images of shape (B, 3, H, W).
            targets (Tensor): Labels of shape (B,), or probabilities of shape
                (B, num_classes).

        Returns:
            dict[str, Tensor]: ``loss_head`` and ``loss_dist_head``, scalars.
        """
        first, second = self.head(self.backbone(inputs))
        taught = self.teacher(inputs)
        return dict(
            loss_head=(1 - self.alpha) * F.cross_entropy(first, targets),
            loss_dist_head=self.alpha * F.cross_entropy(second, taught),
        )
