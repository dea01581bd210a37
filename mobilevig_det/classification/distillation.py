"""Hard distillation: a classifier that learns from the labels and a teacher."""

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
    """Raise a UserError if timm can't be imported, which builds the teacher."""
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The teacher {model} needs timm, which cannot be imported ({error}): '
            f'{EXTRA}'
        ) from error


def build_teacher(model: str, checkpoint: str, num_classes: int) -> nn.Module:
    """Build a network of timm's with its weights, in evaluation mode and frozen.

    Args:
        model (str): Its name in timm.
        checkpoint (str): Its file: a path or an address. Weights under ``model``
            (DeiT's), under ``state_dict``, or bare.
        num_classes (int): Classes that it must know.

    Raises:
        UserError: If timm is missing or has no such network, or if the file is
            missing, or of another network.
    """
    check_timm(model)
    import timm

    if model not in timm.list_models():
        raise UserError(f'timm {timm.__version__} has no network {model!r}.')
    weights = both_weights(read_checkpoint(find_file(checkpoint))).raw
    teacher = timm.create_model(model, pretrained=False, num_classes=num_classes)
    advice = (
        f'it is not of {model} with {num_classes} classes. Set model.teacher.model to '
        'the network that the file is of, or model.teacher.checkpoint to a file of '
        'this one'
    )
    with explain_mismatch(checkpoint, advice):
        teacher.load_state_dict(weights)
    return teacher.eval().requires_grad_(False)


class Teacher:
    """Hold a teacher next to the student, not in it.

    It is no module, so that checkpoints, the optimizer, ``train()`` and
    DistributedDataParallel don't see it, and copies of the student (MMEngine's
    EMAHook) share it. Its file is read at the first call: testing needs no teacher.

    Args:
        model (str): Name of timm's network.
        checkpoint (str): Its file.
        num_classes (int): Classes.
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
        """Predict the classes, (B,), of images (B, 3, H, W)."""
        if self.network is None:
            self.network = build_teacher(self.model, self.checkpoint, self.num_classes)
        self.network.to(images.device)
        return self.network(images).argmax(1)


@MODELS.register_module()
class DistillingClassifier(ImageClassifier):
    """Hard distillation: ``head`` learns the labels, ``dist_head`` the classes that
    the teacher predicts.

    Source: DeiT (arXiv 2012.12877), equation 3. The teacher sees the mixed images, as
    the student does.

    Args:
        teacher (dict): ``model``, a name of timm's, and ``checkpoint``, its file: a
            path or an address.
        alpha (float): Weight of the teacher's loss. Defaults to 0.5.
        others: See :class:`.ImageClassifier`.
    """

    def __init__(self, *args, teacher: dict, alpha: float = 0.5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if len(self.head.classifiers) != 2:
            raise UserError(
                f'{type(self.head).__name__} has one classifier, but a teacher needs '
                "one of its own: set head.type='DistilledHead', or the model's "
                "type='ImageClassifier', which has no teacher."
            )
        self.teacher = Teacher(num_classes=self.head.num_classes, **teacher)
        self.alpha = alpha

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both classifiers.

        Args:
            inputs (Tensor): Normalized images, (B, 3, H, W).
            targets (Tensor): Labels, (B,), or probabilities, (B, num_classes).
        """
        first, second = self.head(self.backbone(inputs))
        taught = self.teacher(inputs)
        return dict(
            loss_head=(1 - self.alpha) * F.cross_entropy(first, targets),
            loss_dist_head=self.alpha * F.cross_entropy(second, taught),
        )
