"""The network that a classifier is taught by."""

from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import find_file, read_checkpoint
from ..errors import UserError

EXTRA = 'pip install "mobilevig_det[imagenet]"'


def build_teacher(model: str, checkpoint: str, num_classes: int) -> nn.Module:
    """A network of timm's with its weights, in evaluation mode and frozen.

    Args:
        model (str): Its name in timm.
        checkpoint (str): Its file: a path or an address. Weights under
            ``model`` (as DeiT's), under ``state_dict``, or bare.
        num_classes (int): How many classes it must know.

    Raises:
        UserError: If timm is not there or has no such network, or if the file
            is missing, or of another one.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f'The teacher {model} needs timm, which cannot be imported ({error}): '
            f'{EXTRA}'
        ) from error
    if model not in timm.list_models():
        raise UserError(f'timm {timm.__version__} has no network {model!r}.')
    weights: Any = read_checkpoint(find_file(checkpoint))
    for key in ('model', 'state_dict'):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    teacher = timm.create_model(model, pretrained=False, num_classes=num_classes)
    own = {key: tuple(value.shape) for key, value in teacher.state_dict().items()}
    given = {key: tuple(getattr(value, 'shape', ())) for key, value in weights.items()}
    if given != own:
        wrong = [key for key in {**own, **given} if own.get(key) != given.get(key)]
        key = wrong[0]
        raise UserError(
            f"The teacher's file {checkpoint} is not of {model} with {num_classes} "
            f'classes: {len(wrong)} weights differ, such as {key}, '
            f'{given.get(key, "missing")} in the file and '
            f'{own.get(key, "unknown")} in the network. Set model.teacher.model to '
            'the network that the file is of, or model.teacher.checkpoint to a file '
            'of this one.'
        )
    teacher.load_state_dict(weights)
    return teacher.eval().requires_grad_(False)


class Teacher:
    """Holds a teacher beside the student, not in it.

    It is no module, so that checkpoints, the optimizer, ``train()`` and
    DistributedDataParallel don't see it; and it is shared where the student is
    copied, as MMEngine's EMAHook does. The file is read when it is needed first:
    testing needs no teacher.

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
        """What the teacher sees: classes, (B,), of images (B, 3, H, W)."""
        if self.network is None:
            self.network = build_teacher(self.model, self.checkpoint, self.num_classes)
        self.network.to(images.device)
        return self.network(images).argmax(1)
