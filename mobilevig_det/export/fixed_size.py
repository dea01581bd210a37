"""A model for images of one size: what phones take."""

import torch
from torch import nn
from torch.export import ExportedProgram

from ..errors import UserError


def check_fixed_size(size: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """Return the size.

    Raises:
        UserError: If there is none.
    """
    if size is None:
        raise UserError(
            f'--format {name} needs the size of the images: --size H W, for '
            'instance --size 224 224.'
        )
    return size


def exported(model: nn.Module, size: tuple[int, int]) -> ExportedProgram:
    """``torch.export`` for images of (1, 3, \\*size).

    Raises:
        UserError: If the model can't take that size, or PyTorch can't export it.
    """
    image = torch.zeros(1, 3, *size)
    with torch.no_grad():
        model(image)  # names what is wrong with the size
        try:
            return torch.export.export(model, (image,))
        except Exception as error:  # of many types
            reason = str(error).strip().split('\n')[0]
            raise UserError(
                f'torch.export (torch {torch.__version__}) cannot export this '
                f'model: {reason}'
            ) from error
