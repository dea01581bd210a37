"""Compare the results of an exported file with those of the PyTorch model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from terminaltables import AsciiTable
from torch import nn

from ...errors import UserError
from ..metadata import final_test_cfg
from ..runtimes import Session
from .detections import (
    BORDERLINE,
    BOX_TOLERANCE,
    SCORE_TOLERANCE,
    Detections,
    Reference,
    match,
    smallest_mask_iou,
    unexplained_differences,
)
from .examples import Example, make_examples
from .teacher_forcing import load_with_graph_steps, pop_graph_steps, teacher_forcing

MAP_TOLERANCE = 1e-4  # relative to the maximum of the feature map
MIN_MASK_IOU = 0.995


def verify_detector(
    path: str | Path, detector: BaseDetector, cfg: Config
) -> list[list[str]]:
    """Compare an exported detector with the PyTorch model on images of several sizes.

    The results are printed as a table.

    Args:
        path (str | Path): The exported file.
        detector (BaseDetector): The model that was exported.
        cfg (Config): The model's config, whose test set is used if it is available.

    Returns:
        list[list[str]]: The rows of the table.

    Raises:
        UserError: If the differences exceed the limits in docs/export.md.
    """
    source, examples = make_examples(cfg, detector)
    columns = ['detections', 'borderline', 'pixels', 'score', 'mask IoU']
    rows = _compare_all(
        path, examples, partial(compare_detections, detector), columns, source
    )
    if not any(int(row[1]) for row in rows):
        print(
            'No boxes were compared, because nothing was detected in these images: '
            'all scores of this checkpoint are below the threshold.'
        )
    return rows


def verify_backbone(
    path: str | Path,
    backbone: nn.Module,
    detector: BaseDetector,
    cfg: Config,
    fixed_size: tuple[int, int] | None = None,
) -> list[list[str]]:
    """Compare the feature maps of an exported backbone with those of the model.

    Args:
        path (str | Path): The exported file.
        backbone (nn.Module): Maps images to a tuple of feature maps.
        detector (BaseDetector): The detector of the backbone, which preprocesses the
            images.
        cfg (Config): The detector's config.
        fixed_size (tuple[int, int] | None): Height and width, if the file accepts
            images of one size only.

    Returns:
        list[list[str]]: The rows of the table that is printed.

    Raises:
        UserError: If the differences exceed the limits in docs/export.md.
    """
    source, examples = make_examples(cfg, detector, fixed_size)
    source += ': largest differences, relative to the largest value of the map'
    return _compare_all(path, examples, partial(_compare_maps, backbone), None, source)


def _compare_all(
    path: str | Path,
    examples: list[Example],
    compare: Callable[[Session, Example], tuple[list[str], list[str]]],
    columns: list[str] | None,
    source: str,
) -> list[list[str]]:
    """Print and return a table, and raise a UserError if an example differs."""
    rows, errors = [], []
    with load_with_graph_steps(path) as session:
        for example in examples:
            row, found = compare(session, example)
            rows.append(row)
            errors += [f'{row[0]}: {error}' for error in found]
    columns = columns or [f'map{i}' for i in range(len(rows[0]) - 1)]
    print(AsciiTable([['H x W', *columns], *rows]).table)
    print(f'{Path(path).name} compared with PyTorch, {source}.')
    if errors:
        shown = '\n'.join(errors[:10])
        raise UserError(
            'The file computes something else than the model and is not kept '
            f'({len(errors)} differences; the limits are {BOX_TOLERANCE} pixels, '
            f'{SCORE_TOLERANCE} in score, a mask IoU of {MIN_MASK_IOU}, '
            f'{MAP_TOLERANCE} of a map, and {BORDERLINE} from a threshold):\n{shown}'
        )
    return rows


def _compare_maps(
    backbone: nn.Module, session: Session, example: Example
) -> tuple[list[str], list[str]]:
    """Return a row of the table, and error messages."""
    outputs = session(image=example.image.numpy())
    errors: list[str] = []
    steps = pop_graph_steps(outputs)
    with torch.no_grad(), teacher_forcing(backbone, steps, errors):
        maps = backbone(example.image)
    row = [_describe_size(example)]
    for name, expected in zip(outputs, maps, strict=True):
        difference = _relative_difference(outputs[name], expected.numpy())
        row.append(f'{difference:.1e}')
        if not difference <= MAP_TOLERANCE:
            errors.append(f'{name} differs by {difference:.1e} of its maximum')
    return row, errors


def compare_detections(
    detector: BaseDetector, session: Session, example: Example
) -> tuple[list[str], list[str]]:
    """Compare the detections of an exported file and of the model in one image.

    Args:
        detector (BaseDetector): The model.
        session (Session): The exported file.
        example (Example): The image.

    Returns:
        tuple[list[str], list[str]]: A row of the table (size, matched and borderline
        detections, largest differences, smallest mask IoU), and error messages.
    """
    outputs = session(
        image=example.image.numpy(), size=np.array(example.size, dtype=np.int64)
    )
    errors: list[str] = []
    with teacher_forcing(detector, pop_graph_steps(outputs), errors):
        reference = Reference(detector, example)
    file = Detections(**outputs)
    model = reference.detections()
    cfg = final_test_cfg(detector)
    matches = match(file, model)
    errors += unexplained_differences(
        matches, file, model, cfg, reference.perturbed_detections()
    )
    if np.any(np.diff(file.scores) > 0):
        errors.append('the scores are not in descending order')
    pixels, score = (
        max((float(np.abs(a[i] - b[j]).max()) for i, j in matches.pairs), default=0.0)
        for a, b in ((file.boxes, model.boxes), (file.scores, model.scores))
    )
    iou = None
    if (file.masks is None) != (model.masks is None):
        errors.append('only one of them has masks')
    elif file.masks is not None and model.masks is not None:
        iou = smallest_mask_iou(
            matches.pairs, file.masks, model.masks, cfg.mask_thr_binary
        )
        if iou < MIN_MASK_IOU:
            errors.append(f'a mask IoU of {iou:.4f}')
    row = [
        _describe_size(example),
        str(len(matches.pairs)),
        str(len(matches.file_only) + len(matches.model_only)),
        f'{pixels:.1e}',
        f'{score:.1e}',
        '-' if iou is None else f'{iou:.4f}',
    ]
    return row, errors


def _describe_size(example: Example) -> str:
    height, width = example.image.shape[2:]
    text = f'{height} x {width}'
    if example.size != (height, width):
        text += f' ({example.size[0]} x {example.size[1]} padded)'
    return text


def _relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float('inf')
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
