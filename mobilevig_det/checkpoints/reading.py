"""Reading a checkpoint file: safely, and with one message when it fails."""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping

import torch
from mmengine.logging import print_log

from ..errors import UserError
from .key_mapping import is_authors_layout
from .safe_types import allow_checkpoint_types
from .size_limits import check_container, check_content
from .weight_types import check_weight_types


def read_checkpoint(path: str | os.PathLike, map_location: str | None = None) -> dict:
    """Read a checkpoint file without running anything that is in it.

    Args:
        path (str | os.PathLike): File that ``torch.save`` wrote.
        map_location (str, optional): Same as :func:`torch.load`. Defaults to
            the CPU, wherever the weights were saved.

    Returns:
        dict: What the file holds.

    Raises:
        UserError: If there is no such file, if it is empty, cut off or
            something else than a checkpoint, if it holds objects other
            than weights and the types in :mod:`.safe_types`, if it claims far
            more bytes than it has, or something else than numbers with
            fractions under the names of weights.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(
            f'There is no checkpoint file {path!r}, seen from {os.getcwd()!r}.'
        )
    try:
        with open(path, 'rb') as file:
            start = file.read(1024)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if not start:
        raise UserError(f'{path} is empty: copy or download it again.')
    if start.lstrip().startswith(b'<'):
        raise UserError(
            f'{path} is a web page (HTML or XML), not a checkpoint: download '
            'it again, through the link that gives the file itself.'
        )
    if start.startswith(b'PK') and not zipfile.is_zipfile(path):
        raise UserError(
            f'{path} is cut off ({os.path.getsize(path)} bytes '
            'are there): copy or download it again.'
        )
    check_container(path)
    allow_checkpoint_types()  # again: OneDL's MMEngine takes types away
    try:
        # Said aloud, because torch < 2.6 would run what the file says.
        checkpoint = torch.load(
            path, map_location=map_location or 'cpu', weights_only=True
        )
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from error
    except torch.cuda.OutOfMemoryError:
        raise  # not the file's fault
    except Exception as error:  # whatever a broken file makes torch raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f'{path} cannot be read as a PyTorch checkpoint ({reason}): it '
            'is damaged, or another kind of file.'
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(
            f'{path} holds a {type(checkpoint).__name__}, where '
            'a checkpoint holds a dict with its weights.'
        )
    check_content(path, checkpoint)
    check_weight_types(checkpoint, path)
    return checkpoint


def _refusal(path: str, reason: str) -> str:
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return (
            f'{path} was refused: it holds more than weights, and torch '
            f'{torch.__version__} can read only weights safely. Use torch '
            '2.4 or newer.'
        )
    name = re.search(
        r'GLOBAL (\S+) was not|GLOBAL (\S+) whose|(getattr\(.*?\))', reason
    )
    if name is None:
        return (
            f'{path} cannot be read as a PyTorch checkpoint: it is '
            'damaged, or another kind of file.'
        )
    return (
        f'{path} was refused, and nothing in it was run: beside weights it '
        f'holds {next(filter(None, name.groups()))}, which could run code '
        'when loaded. If you trust where it comes from, save its weights '
        "alone there: torch.save({'state_dict': …}, file)."
    )


def averaged(checkpoint: dict, name: str) -> dict:
    """The checkpoint, with the averaged weights as its ``state_dict``.

    Training scripts in the manner of timm, the authors' among them, write
    the raw weights as ``state_dict`` and the averaged ones as
    ``state_dict_ema``. The authors' COCO runs started from the averaged ones,
    though their published top-1 is of the raw ones, the only ones that their
    script evaluates. Of these scripts' files without averaged weights the log
    says so; other files stay as they are.

    Args:
        checkpoint (dict): What the file holds; or bare weights.
        name (str): Name of the file, for the log.

    Returns:
        dict: The same, without ``state_dict_ema``.
    """
    checkpoint = dict(checkpoint)
    weights = checkpoint.pop('state_dict_ema', None)
    if weights:
        checkpoint['state_dict'] = without_wrapper(weights)
        print_log(f'{name}: loads the averaged weights.', logger='current')
        return checkpoint
    if isinstance(checkpoint.get('state_dict'), dict):
        weights = without_wrapper(checkpoint['state_dict'])
        checkpoint['state_dict'] = weights
    else:
        weights = checkpoint
    if is_authors_layout(without_wrapper(weights)):
        print_log(
            f'{name}: there are no averaged weights (state_dict_ema) in it, '
            'so the raw ones (state_dict) are loaded.',
            logger='current',
            level=logging.WARNING,
        )
    return checkpoint


def without_wrapper(weights: Mapping) -> Mapping:
    """Weights that were saved from inside DistributedDataParallel."""
    prefix = 'module.'
    if not weights or not all(k.startswith(prefix) for k in weights):
        return weights
    return {key[len(prefix) :]: value for key, value in weights.items()}
