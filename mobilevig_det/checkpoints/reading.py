"""Read a checkpoint file, and choose between its raw and averaged weights.

A checkpoint may contain raw weights and their exponential moving average:

==================  ======================  ==========================
written by          raw weights             averaged weights
==================  ======================  ==========================
authors, timm       ``state_dict``          ``state_dict_ema``
MMEngine's EMAHook  ``ema_state_dict``      ``state_dict``
DeiT                ``model``               none
others              ``state_dict``          none
==================  ======================  ==========================

EMAHook swaps the two sets when it saves, so that loading ``state_dict`` gives the
averaged weights.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..errors import UserError
from .file_formats import is_safetensors, read_legacy, read_safetensors, read_zip
from .key_mapping import is_authors_layout
from .plain_unpickler import Budget, check_plain
from .safety import check_content, check_start

Weights = Mapping[str, Tensor]


def read_checkpoint(path: str | os.PathLike, map_location: str | None = None) -> dict:
    """Read a checkpoint file without running any code that it contains.

    The package reads all checkpoints with this function.

    Args:
        path (str | os.PathLike): File that ``torch.save`` or safetensors wrote.
        map_location (str, optional): Device of the tensors. Defaults to the CPU,
            whatever device the weights were saved from.

    Returns:
        dict: Content of the file.

    Raises:
        UserError: If there is no such file, if it is damaged or not a checkpoint, or
            if a check of :mod:`.safety` rejects it.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(
            f'There is no checkpoint file {path!r}, seen from {os.getcwd()!r}.'
        )
    device = map_location or 'cpu'
    try:
        with open(path, 'rb') as file:
            start = file.read(1024)
            check_start(path, start)
            file.seek(0)
            budget = Budget(os.fstat(file.fileno()).st_size)
            if start.startswith(b'PK'):
                checkpoint = read_zip(file, device, budget)
            elif is_safetensors(start):
                checkpoint = read_safetensors(path, device)
            else:
                checkpoint = read_legacy(file, device, budget)
            check_plain(checkpoint, budget)
    except UserError as error:
        if str(error).startswith(path):
            raise
        raise UserError(
            f'{path} was refused, and nothing in it was run: {error}'
        ) from error
    except torch.cuda.OutOfMemoryError:
        raise  # the file is not to blame
    except Exception as error:  # a damaged file can make the readers raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f'{path} cannot be read as a PyTorch checkpoint ({reason}): it is damaged, '
            'or it is another kind of file.'
        ) from error
    return check_content(path, checkpoint)


class BothWeights(NamedTuple):
    """Raw and averaged weights of a checkpoint, by name.

    Attributes:
        raw: Weights that the optimizer updated.
        averaged: Their exponential moving average; None if the file has none.
    """

    raw: Weights
    averaged: Weights | None


def both_weights(checkpoint: Mapping[str, Any]) -> BothWeights:
    """Extract the raw and the averaged weights of a checkpoint.

    Args:
        checkpoint (Mapping): Content of the file, or bare weights.

    Returns:
        BothWeights: Both sets, without DistributedDataParallel's prefix ``module.``.
    """
    main = next(
        (
            checkpoint[key]
            for key in ('state_dict', 'model', 'state_dict_ema')
            if isinstance(checkpoint.get(key), Mapping)
        ),
        checkpoint,
    )
    if checkpoint.get('ema_state_dict'):
        raw = {k: v for k, v in checkpoint['ema_state_dict'].items() if k != 'steps'}
        return BothWeights(_unwrapped(raw), _unwrapped(main))
    averaged = checkpoint.get('state_dict_ema')
    return BothWeights(_unwrapped(main), _unwrapped(averaged) if averaged else None)


def prefer_averaged(checkpoint: dict, name: str) -> dict:
    """Return the checkpoint with its averaged weights, if any, as ``state_dict``.

    The authors' COCO runs started from the averaged weights, although their published
    top-1 accuracy is that of the raw weights, which are the only ones that their script
    evaluates. The function logs when averaged weights replace the raw ones, and warns
    when a file in the authors' layout has none.

    Args:
        checkpoint (dict): Content of the file, or bare weights.
        name (str): Name of the file, for the log.

    Returns:
        dict: A checkpoint whose weights are under ``state_dict``.
    """
    raw, averaged = both_weights(checkpoint)
    if checkpoint.get('state_dict_ema'):
        print_log(f'{name}: loading the averaged weights.', logger='current')
    elif averaged is None and is_authors_layout(raw):
        print_log(
            f'{name}: it has no averaged weights (state_dict_ema), so the raw ones '
            '(state_dict) are loaded.',
            logger='current',
            level=logging.WARNING,
        )
    others = {
        key: value
        for key, value in checkpoint.items()
        if key != 'state_dict_ema' and not isinstance(value, Tensor)
    }
    return {**others, 'state_dict': raw if averaged is None else averaged}


def _unwrapped(weights: Weights) -> Weights:
    prefix = 'module.'
    if not weights or not all(key.startswith(prefix) for key in weights):
        return weights
    return {key[len(prefix) :]: value for key, value in weights.items()}
