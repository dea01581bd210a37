"""A folder with a page that runs a detector in the browser."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import UserError

PAGE = Path(__file__).parent / 'page'
# Of the npm package onnxruntime-web: ONNX Runtime in WebAssembly, on CPUs.
RUNTIME = (
    'ort.wasm.min.mjs',
    'ort-wasm-simd-threaded.mjs',
    'ort-wasm-simd-threaded.wasm',
)
INSTALL = 'npm install onnxruntime-web@1.30'


def write_web(
    onnx_path: str | Path,
    folder: str | Path,
    metadata: dict[str, Any],
    ort_web: str | Path = 'node_modules/onnxruntime-web',
) -> None:
    """Write index.html with all that it needs; none of it is loaded from afar.

    Args:
        onnx_path (str | Path): The detector.
        folder (str | Path): Where the page goes.
        metadata (dict): From :func:`..metadata.make_metadata`.
        ort_web (str | Path): The npm package onnxruntime-web, as npm installs it.

    Raises:
        UserError: If that package isn't there.
    """
    runtime = find_runtime(ort_web)
    folder = Path(folder)
    shutil.copytree(
        PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__')
    )
    (folder / 'ort').mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copyfile(runtime / name, folder / 'ort' / name)
    shutil.copyfile(onnx_path, folder / 'model.onnx')
    text = json.dumps(metadata, ensure_ascii=False)
    (folder / 'model.json').write_text(text, encoding='utf-8')


def find_runtime(ort_web: str | Path) -> Path:
    """The folder of the runtime's files, or a UserError."""
    folder = Path(ort_web, 'dist')
    missing = [name for name in RUNTIME if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f'The page needs the npm package onnxruntime-web; {folder} has no '
            f'{missing[0]}. Run `{INSTALL}` in this folder, once.'
        )
    return folder
