"""Exported files in their runtimes, all called alike."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from .executorch_session import ExecuTorchSession
from .metadata import KEY
from .packages import needed


class Session(Protocol):
    """A model that is loaded: arrays by name, in and out."""

    metadata: dict[str, Any]

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]: ...


class OnnxSession:
    """An .onnx file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int | None = None):
        needed('onnxruntime')
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.metadata = _parsed(
            self._session.get_modelmeta().custom_metadata_map.get(KEY), path
        )

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, arrays)))


@functools.cache
def openvino_core() -> Any:
    """The process's one ``openvino.Core``.

    Each takes the signal stack of its thread, and gives the former one back when it
    ends (2026.4). Two that don't end in the order opposite to their start leave one
    that is gone, and the next signal that Python handles, as Ctrl-C, kills the process.
    """
    needed('openvino')
    import openvino

    return openvino.Core()


class OpenVINOSession:
    """An .xml file in OpenVINO, on the CPU."""

    def __init__(self, path: Path, threads: int | None = None):
        core = openvino_core()
        model = core.read_model(str(path))
        # Where a CPU has bfloat16 it would be taken.
        options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
        if threads is not None:
            options['INFERENCE_NUM_THREADS'] = threads
        self._model = core.compile_model(model, 'CPU', options)
        self._outputs = [output.get_any_name() for output in model.outputs]
        has_one = model.has_rt_info([KEY])
        text = model.get_rt_info([KEY]).astype(str) if has_one else None
        self.metadata = _parsed(text, path)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        found = self._model(arrays)
        return {
            name: np.array(found[port])
            for name, port in zip(self._outputs, self._model.outputs)
        }


SESSIONS: dict[str, Callable[[Path, int | None], Session]] = {
    '.onnx': OnnxSession,
    '.xml': OpenVINOSession,
    '.pte': ExecuTorchSession,
}


def load(path: str | Path, threads: int | None = None) -> Session:
    """Load an exported file in its runtime, chosen by its suffix.

    Args:
        path (str | Path): Of the file.
        threads (int | None): Of the CPU; by default what the runtime takes.

    Raises:
        UserError: If it isn't one of ours, can't be read, or the runtime is missing.
    """
    path = Path(path)
    if path.suffix not in SESSIONS:
        raise UserError(
            f'{path} is not an exported model: their names end in '
            f'{" or ".join(SESSIONS)}.'
        )
    if not path.is_file():
        raise UserError(f'There is no file {str(path)!r}.')
    try:
        return SESSIONS[path.suffix](path, threads)
    except UserError:
        raise
    except Exception as error:  # each runtime has types of its own
        raise UserError(
            f'{path} cannot be loaded in its runtime: {str(error).strip()}'
        ) from error


def _parsed(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        raise UserError(
            f'{path} has no metadata of mobilevig_det: tools/export.py did not '
            'write it.'
        )
    return json.loads(text)
