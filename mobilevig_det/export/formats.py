"""Formats of exported files: what each one takes, and how to write and verify it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.models import BaseDetector
from mmengine.config import Config

from ..errors import UserError
from ..io import atomic_write_group
from .backbone import BackboneWithNeck
from .coreml import write_coreml
from .executorch import write_executorch
from .openvino import write_openvino
from .runtimes import require
from .verification import verify_backbone, verify_detector
from .web import MODEL, write_web


class Format(NamedTuple):
    """Properties of a format.

    Attributes:
        suffix: Ending of the file's name, or of the folder's for ``web``.
        parts: Parts of a detector that can be exported; the first one is the default.
    """

    suffix: str
    parts: tuple[str, ...]


FORMATS = {
    'onnx': Format('.onnx', ('detector', 'backbone')),
    'openvino': Format('.xml', ('detector', 'backbone')),
    'executorch': Format('.pte', ('backbone',)),
    'coreml': Format('.mlpackage', ('backbone',)),
    'web': Format('_web', ('detector',)),
}


def check_part(name: str, part: str) -> None:
    """Raise a UserError if a format can't hold that part of a detector."""
    if part not in FORMATS[name].parts:
        raise UserError(
            f'--format {name} takes --part {FORMATS[name].parts[0]} only. --format '
            'onnx and openvino take either: a whole detector, or a backbone with '
            'its neck.'
        )


def check_size(detector: BaseDetector, size: tuple[int, int]) -> None:
    """Raise a UserError if the backbone and neck don't accept images of a size."""
    height, width = size
    try:
        if min(size) < 1:
            raise RuntimeError('a side must have pixels')
        with torch.no_grad():
            detector.extract_feat(torch.zeros(1, 3, height, width))
    except (RuntimeError, UserError) as error:
        raise UserError(
            f'--size {height} {width}: the model takes no images of that size '
            f'({str(error).strip()}). Multiples of 32 fit every model.'
        ) from error


@contextlib.contextmanager
def new_files(path: str | Path) -> Iterator[Path]:
    """Write an exported file atomically, with the files that belong to it.

    See :func:`mobilevig_det.io.atomic_write_group`.

    Raises:
        UserError: If it can't be written, for example because the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write_group(path) as part:
            yield part
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from error


def write(
    name: str,
    part: str,
    detector: BaseDetector,
    path: Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
    ort_web: Path | None = None,
) -> Path:
    """Write a part of a detector in a format.

    Args:
        name (str): The format, one of ``FORMATS``.
        part (str): ``'detector'`` or ``'backbone'``.
        detector (BaseDetector): The detector, fused and in eval mode.
        path (Path): The file or folder, in a temporary folder: see :func:`new_files`.
        size (tuple[int, int] | None): Height and width, if the file shall take images
            of one size only.
        metadata (dict): From :func:`.metadata.make_metadata`.
        ort_web (Path | None): From :func:`.web.find_ort_web`, for the format web.

    Returns:
        Path: The file to load and verify: ``path``, or the model in that folder.

    Raises:
        UserError: If the detector can't be exported; the message says why.
    """
    if name in ('onnx', 'openvino', 'web'):
        require('onnx', 'onnxscript')  # which the next import needs
        from .onnx import write_onnx_backbone, write_onnx_detector
    if name in ('onnx', 'openvino'):
        onnx_path = path.with_suffix('.onnx')
        if part == 'detector':
            write_onnx_detector(detector, onnx_path, metadata)
        else:
            write_onnx_backbone(BackboneWithNeck(detector), onnx_path, size, metadata)
        if name == 'openvino':
            write_openvino(onnx_path, path, metadata)
            onnx_path.unlink()
    elif name == 'web':
        assert ort_web is not None
        write_web(path, metadata, ort_web)
        path = path / MODEL
        write_onnx_detector(detector, path, metadata)
    elif name == 'executorch':
        write_executorch(BackboneWithNeck(detector), path, size, metadata)
    else:
        counts = write_coreml(BackboneWithNeck(detector), path, size, metadata)
        print(
            f'A program of {counts.total()} operations: '
            f'{", ".join(f"{n} {kind}" for kind, n in counts.most_common())}.\n'
            'Its operators and its normalisation were checked. It was not run, which '
            'only a Mac or an iPhone can do (docs/export.md, "Phones").'
        )
    return path


def verify(
    part: str,
    detector: BaseDetector,
    path: Path,
    size: tuple[int, int] | None,
    cfg: Config,
) -> None:
    """Compare what :func:`write` wrote with the detector.

    Raises:
        UserError: If they differ by more than rounding explains.
    """
    if part == 'detector':
        verify_detector(path, detector, cfg)
    else:
        verify_backbone(path, BackboneWithNeck(detector), detector, cfg, size)
