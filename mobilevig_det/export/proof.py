"""An exported file, loaded in its runtime, beside PyTorch."""

from pathlib import Path

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from terminaltables import AsciiTable
from torch import nn

from ..errors import UserError
from .admission import following, loaded_with_steps, take_steps
from .examples import Example, make_examples
from .matching import PIXELS, SCORE, match, unexplained, worst_mask
from .metadata import final_test_cfg
from .reference import NEAR, Detections, Reference
from .runtimes import Session

MAPS = 1e-4  # of a map's maximum
MASK_IOU = 0.995


def prove_detector(
    path: str | Path, detector: BaseDetector, cfg: Config
) -> list[list[str]]:
    """Compare a detector's file with the model, on images of several sizes.

    Prints a table and where the images are from.

    Args:
        path (str | Path): The file.
        detector (BaseDetector): The model that it was made of.
        cfg (Config): Its config, whose test set is looked at.

    Returns:
        list[list[str]]: The rows of the table.

    Raises:
        UserError: If they differ by more than the limits (docs/export.md).
    """
    source, examples = make_examples(cfg, detector)
    rows, wrong, total = [], [], 0
    with loaded_with_steps(path) as session:
        for example in examples:
            row, faults, number = _compare(session, detector, example)
            rows.append(row)
            wrong += [f'{row[0]}: {fault}' for fault in faults]
            total += number
    header = ['H x W', 'detections', 'borderline', 'pixels', 'score', 'mask IoU']
    print(AsciiTable([header, *rows]).table)
    print(f'{Path(path).name} beside PyTorch, on images {source}.')
    if not total:
        print(
            'Nothing was detected in any of them, so no box was compared: the '
            'scores of this checkpoint are all under the threshold.'
        )
    _raise_if(wrong, path)
    return rows


def prove_backbone(
    path: str | Path,
    backbone: nn.Module,
    detector: BaseDetector,
    cfg: Config,
    fixed_size: tuple[int, int] | None = None,
) -> list[list[str]]:
    """Compare a backbone's maps with the model's, likewise.

    Args:
        path (str | Path): The file.
        backbone (nn.Module): From images to a tuple of maps.
        detector (BaseDetector): That it is a part of, which prepares images.
        cfg (Config): Its config.
        fixed_size (tuple[int, int] | None): The one size of the file, if any.
    """
    source, examples = make_examples(cfg, detector, fixed_size)
    rows, wrong = [], []
    with loaded_with_steps(path) as session:
        for example in examples:
            row, faults = _compare_maps(session, backbone, example)
            rows.append(row)
            wrong += [f'{row[0]}: {fault}' for fault in faults]
    header = ['H x W', *(f'map{i}' for i in range(len(rows[0]) - 1))]
    print(AsciiTable([header, *rows]).table)
    print(
        f'{Path(path).name} beside PyTorch, on images {source}: largest differences, '
        'relative to the largest value of the map.'
    )
    _raise_if(wrong, path)
    return rows


def _compare_maps(
    session: Session, backbone: nn.Module, example: Example
) -> tuple[list[str], list[str]]:
    """A row of the table, and what is wrong."""
    found = session(image=example.image.numpy())
    wrong: list[str] = []
    with torch.no_grad(), following(backbone, take_steps(found), wrong):
        maps = backbone(example.image)
    row = [_words(example)]
    for name, want in zip(found, maps, strict=True):
        error = _relative(found[name], want.numpy())
        row.append(f'{error:.1e}')
        if not error <= MAPS:
            wrong.append(f'{name} differs by {error:.1e} of its maximum')
    return row, wrong


def _compare(
    session: Session, detector: BaseDetector, example: Example
) -> tuple[list[str], list[str], int]:
    """A row of the table, what is wrong, and how many detections were paired."""
    found = session(
        image=example.image.numpy(), size=np.array(example.size, dtype=np.int64)
    )
    wrong: list[str] = []
    with following(detector, take_steps(found), wrong):
        reference = Reference(detector, example)
    file = Detections(**found)
    model = reference.detections()
    cfg = final_test_cfg(detector)
    matches = match(file, model)
    wrong += unexplained(matches, file, model, cfg, reference.neighbours())
    if np.any(np.diff(file.scores) > 0):
        wrong.append('the scores do not fall')
    boxes, scores = (
        max((float(np.abs(a[i] - b[j]).max()) for i, j in matches.pairs), default=0.0)
        for a, b in ((file.boxes, model.boxes), (file.scores, model.scores))
    )
    iou = None
    if (file.masks is None) != (model.masks is None):
        wrong.append('only one of them has masks')
    elif file.masks is not None and model.masks is not None:
        iou = worst_mask(matches.pairs, file.masks, model.masks, cfg.mask_thr_binary)
        if iou < MASK_IOU:
            wrong.append(f'a mask IoU of {iou:.4f}')
    borderline = len(matches.file_only) + len(matches.model_only)
    row = [
        _words(example),
        str(len(matches.pairs)),
        str(borderline),
        f'{boxes:.1e}',
        f'{scores:.1e}',
        '-' if iou is None else f'{iou:.4f}',
    ]
    return row, wrong, len(matches.pairs)


def _words(example: Example) -> str:
    height, width = example.image.shape[2:]
    words = f'{height} x {width}'
    if example.size != (height, width):
        words += f' ({example.size[0]} x {example.size[1]} padded)'
    return words


def _relative(found: np.ndarray, want: np.ndarray) -> float:
    if found.shape != want.shape:
        return float('inf')
    return float(np.abs(found - want).max() / max(np.abs(want).max(), 1e-12))


def _raise_if(wrong: list[str], path: str | Path) -> None:
    if wrong:
        shown = '\n'.join(wrong[:10])
        raise UserError(
            f'The file computes something else than the model, and is not kept '
            f'({len(wrong)} differences; the limits are {PIXELS} pixels, {SCORE} in '
            f'score, a mask IoU of {MASK_IOU}, {MAPS} of a map, and {NEAR} from a '
            f'threshold):\n{shown}'
        )
