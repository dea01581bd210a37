"""What can be exported to which format, and who writes it."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from torch import nn

from ..errors import UserError


class Format(NamedTuple):
    """How a format's files end, and which parts of a detector it takes."""

    suffix: str  # of a folder, for the page
    parts: tuple[str, ...]  # the first one is the default


FORMATS = {
    'onnx': Format('.onnx', ('detector', 'backbone')),
    'openvino': Format('.xml', ('detector', 'backbone')),
    'executorch': Format('.pte', ('backbone',)),
    'coreml': Format('.mlpackage', ('backbone',)),
    'web': Format('_web', ('detector',)),
}


def check_part(name: str, part: str) -> None:
    """Raise a UserError if a format can't hold that part."""
    if name == 'web' and part != 'detector':
        raise UserError('--format web is a page that detects: --part detector only.')
    if part not in FORMATS[name].parts:
        raise UserError(
            f'--format {name} takes --part {FORMATS[name].parts[0]} only. --format '
            'onnx and openvino take either: a whole detector, or a backbone with '
            'its neck.'
        )


def check_size(detector: BaseDetector, size: tuple[int, int]) -> None:
    """Raise a UserError if the backbone and neck can't take images of a size."""
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


def write(
    name: str,
    part: str,
    detector: BaseDetector,
    path: Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
    ort_web: Path | None = None,
) -> Path:
    """Write a part of a fused detector in a format, to ``path``.

    ``ort_web`` is what :func:`.ort_web.find_ort_web` found, for the format web.

    Returns:
        Path: The file to load, and to :func:`prove`; mostly ``path``.

    Raises:
        UserError: If it can't be done; the message says why.
    """
    from .onnx_file import write_onnx_backbone, write_onnx_detector

    if name in ('onnx', 'openvino'):
        in_onnx = path.with_suffix('.onnx')
        if part == 'detector':
            write_onnx_detector(detector, in_onnx, metadata)
        else:
            write_onnx_backbone(backbone_of(detector), in_onnx, size, metadata)
        if name == 'openvino':
            from .openvino import write_openvino

            write_openvino(in_onnx, path, metadata)
            in_onnx.unlink()
    elif name == 'web':
        from .web_folder import write_web

        assert ort_web is not None
        path = write_web(detector, path, metadata, ort_web)
    elif name == 'executorch':
        from .executorch import write_executorch

        write_executorch(backbone_of(detector), path, size, metadata)
    else:
        from .coreml import write_coreml

        counts = write_coreml(backbone_of(detector), path, size, metadata)
        print(
            f'A program of {counts.total()} operations: '
            f'{", ".join(f"{n} {kind}" for kind, n in counts.most_common())}.\n'
            'Its operators and its normalisation were checked. It was not run, which '
            'only a Mac or an iPhone can do (docs/export.md, "Phones").'
        )
    return path


def prove(
    part: str,
    detector: BaseDetector,
    path: Path,
    size: tuple[int, int] | None,
    cfg: Config,
) -> None:
    """Compare what :func:`write` wrote with the model.

    Raises:
        UserError: If they differ.
    """
    from .proof import prove_backbone, prove_detector

    if part == 'detector':
        prove_detector(path, detector, cfg)
    else:
        prove_backbone(path, backbone_of(detector), detector, cfg, size)


def backbone_of(detector: BaseDetector) -> nn.Module:
    from .backbone import BackboneWithNeck

    return BackboneWithNeck(detector).eval()
