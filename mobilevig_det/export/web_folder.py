"""A folder with a page that runs a detector in the browser."""

import shutil
from pathlib import Path
from typing import Any

from mmdet.models import BaseDetector

from ..errors import UserError
from .metadata import to_json
from .ort_web import FILES

PAGE = Path(__file__).parent / 'web'
MODEL = 'model.onnx'


def check_folder(folder: Path) -> None:
    """Raise a UserError if writing to ``folder`` would replace other files."""
    ours = (folder / MODEL).is_file() and (folder / 'serve.py').is_file()
    if folder.exists() and not ours and not (folder.is_dir() and _is_empty(folder)):
        raise UserError(
            f'--out {folder} is there, and is not a page that --format web wrote: it '
            'would be replaced. Name a folder that is not there yet.'
        )


def write_web(
    detector: BaseDetector, folder: Path, metadata: dict[str, Any], ort_web: Path
) -> Path:
    """Write index.html with all that it needs: it loads nothing from elsewhere.

    Args:
        detector (BaseDetector): Fused and in eval mode.
        folder (Path): Where the page goes.
        metadata (dict): From :func:`..metadata.make_metadata`; a file of its own,
            as onnxruntime-web does not read a model's.
        ort_web (Path): From :func:`.ort_web.find_ort_web`.

    Returns:
        Path: The model's file in it.

    Raises:
        UserError: If the detector isn't of a family that is covered.
    """
    from .onnx_file import write_onnx_detector

    folder.mkdir(parents=True, exist_ok=True)
    for source in PAGE.iterdir():
        if source.is_file():
            shutil.copyfile(source, folder / source.name)
    (folder / 'ort').mkdir()
    for name in FILES:
        shutil.copyfile(ort_web / name, folder / 'ort' / Path(name).name)
    (folder / 'model.json').write_text(to_json(metadata), encoding='utf-8')
    write_onnx_detector(detector, folder / MODEL, metadata)
    return folder / MODEL


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
