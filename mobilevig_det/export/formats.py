"""Export formats: what each one supports, and how to write and verify it."""

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
    """Properties of an export format.

    Attributes:
        suffix: Suffix of the file name, or of the folder name for ``web``.
        parts: Parts of a detector that can be exported. The first one is the default.
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
    """Check that a format supports a part of a detector.

    Args:
        name (str): The format, a key of ``FORMATS``.
        part (str): ``'detector'`` or ``'backbone'``.

    Raises:
        UserError: If it does not.
    """
    if part not in FORMATS[name].parts:
        raise UserError(
            f'--format {name} supports --part {FORMATS[name].parts[0]} only. --format '
            'onnx and openvino support both: a complete detector, or a backbone with '
            'its neck.'
        )


def check_size(detector: BaseDetector, size: tuple[int, int]) -> None:
    """Check that the backbone and neck accept images of a size.

    Args:
        detector (BaseDetector): The detector, in eval mode.
        size (tuple[int, int]): Height and width of the images.

    Raises:
        UserError: If they do not.
    """
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
    """Write an exported file and the files that belong to it atomically.

    See :func:`mobilevig_det.io.atomic_write_group`.

    Args:
        path (str | Path): The final path of the file. Its folder is created.

    Yields:
        Path: The temporary path to write to.

    Raises:
        UserError: If the file can't be written, for example because the disk is full.
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
    """Write a detector, or its backbone, in a format.

    Args:
        name (str): The format, a key of ``FORMATS``.
        part (str): ``'detector'`` or ``'backbone'``.
        detector (BaseDetector): The detector, fused and in eval mode.
        path (Path): The temporary file or folder, see :func:`new_files`.
        size (tuple[int, int] | None): Height and width, if the file should accept
            images of one size only.
        metadata (dict): The metadata, from :func:`.metadata.make_metadata`.
        ort_web (Path | None): The folder of onnxruntime-web, from
            :func:`.web.find_ort_web`. Required for the format ``web``.

    Returns:
        Path: The file to load and verify: ``path``, or the model in that folder.

    Raises:
        UserError: If the detector can't be exported. The message gives the reason.
    """
    if name in ('onnx', 'openvino', 'web'):
        require('onnx', 'onnxscript')  # required by the next import
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
    """Compare an exported file with the PyTorch model.

    Args:
        part (str): ``'detector'`` or ``'backbone'``.
        detector (BaseDetector): The detector, fused and in eval mode.
        path (Path): The file that :func:`write` returned.
        size (tuple[int, int] | None): Height and width, if the file accepts images of
            one size only.
        cfg (Config): The detector's config.

    Raises:
        UserError: If the results differ by more than rounding explains.
    """
    if part == 'detector':
        verify_detector(path, detector, cfg)
    else:
        verify_backbone(path, BackboneWithNeck(detector), detector, cfg, size)
