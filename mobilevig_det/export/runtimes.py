"""Load exported models of any format in their runtimes.

The runtimes are optional packages (the extra ``[export]``): :func:`require` checks that
they are installed, and :func:`quiet` silences them.
"""

import contextlib
import functools
import importlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from ..errors import UserError
from .metadata import MAX_LENGTH, METADATA_KEY, parse_metadata

# Prefix of the names of nodes that are not layers. They are never quantised.
BUILT = 'built/'


@dataclass(frozen=True, eq=False)
class Session:
    """Exported model that is loaded in its runtime.

    Attributes:
        inputs (dict[str, tuple[int | None, ...]]): Shape of each input by name; None
            stands for an axis of any size.
        outputs (list[str]): Names of the outputs.
        metadata (dict): The metadata; see docs/export.md, "Metadata".
        run (Callable): Computes the outputs in the order of ``outputs``.

    Example:
        >>> session = load('detector.onnx')
        >>> session(image=image, size=np.array([224, 224]))['boxes']
    """

    inputs: dict[str, tuple[int | None, ...]]
    outputs: list[str]
    metadata: dict[str, Any]
    run: Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model on inputs by name, and return the outputs by name."""
        return dict(zip(self.outputs, self.run(arrays), strict=True))


def load(path: str | Path, threads: int | None = None) -> Session:
    """Load an exported model in its runtime, on the CPU.

    Args:
        path (str | Path): The file: .onnx, .xml (OpenVINO) or .pte (ExecuTorch).
        threads (int | None): Number of CPU threads. Defaults to None, which uses the
            default of the runtime. ExecuTorch applies it to all models of the process.

    Returns:
        Session: The model, its inputs, outputs and metadata.

    Raises:
        UserError: If the file is missing, damaged or not written by
            ``tools/export.py``, or the runtime is not installed.

    Example:
        >>> session = load('work_dirs/export/mobilevig_ti_fpn_shapes.onnx')
        >>> outputs = session(image=image, size=np.array([224, 224]))
    """
    path = Path(path)
    if path.suffix not in LOADERS:
        raise UserError(
            f'{path} is not an exported model: their names end in '
            f'{" or ".join(LOADERS)}.'
        )
    if not path.is_file():
        raise UserError(f'There is no file {str(path)!r}.')
    try:
        return LOADERS[path.suffix](path, threads)
    except UserError:
        raise
    except Exception as error:  # each runtime has its own types
        raise UserError(
            f'{path} cannot be loaded in its runtime: {str(error).strip()}'
        ) from error


def _load_onnx(path: Path, threads: int | None) -> Session:
    require('onnxruntime')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )
    outputs = [output.name for output in session.get_outputs()]
    inputs = {
        port.name: tuple(n if isinstance(n, int) else None for n in port.shape)
        for port in session.get_inputs()
    }
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    metadata = parse_metadata(text, path)
    return Session(inputs, outputs, metadata, lambda x: session.run(outputs, x))


def _load_openvino(path: Path, threads: int | None) -> Session:
    core = openvino_core()
    model = core.read_model(str(path))
    has_text = model.has_rt_info([METADATA_KEY])
    text = model.get_rt_info([METADATA_KEY]).astype(str) if has_text else None
    metadata = parse_metadata(text, path)
    # OpenVINO's default is bfloat16 on CPUs that support it.
    options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
    if threads is not None:
        options['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', options)
    inputs = {
        port.get_any_name(): tuple(
            None if n.is_dynamic else n.get_length() for n in port.partial_shape
        )
        for port in model.inputs
    }
    outputs = [port.get_any_name() for port in model.outputs]

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = compiled(arrays)
        return [np.array(results[port]) for port in compiled.outputs]

    return Session(inputs, outputs, metadata, run)


def _load_executorch(path: Path, threads: int | None) -> Session:
    require('executorch')
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    sidecar = path.with_suffix('.json')
    if not sidecar.is_file():
        raise UserError(
            f'{path} has no metadata next to it: {sidecar.name} is missing, which '
            'tools/export.py wrote with it.'
        )
    with sidecar.open(encoding='utf-8') as file:
        metadata = parse_metadata(file.read(MAX_LENGTH + 1), sidecar)
    if not metadata.get('fixed_size'):
        raise UserError(f'The metadata {sidecar} has no fixed_size.')
    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method('forward')
    if method is None:
        raise UserError(f'{path} has no method "forward".')
    height, width = metadata['fixed_size']

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        image = np.ascontiguousarray(arrays['image'], dtype=np.float32)
        if image.shape != (1, 3, height, width):
            raise UserError(
                f'This file takes one image of 3 x {height} x {width} (C x H x W), '
                f'not an array of {image.shape}.'
            )
        maps = method.execute([torch.from_numpy(image)])
        # Copied because the runtime reuses its output buffers.
        return [feature_map.numpy().copy() for feature_map in maps]

    outputs = [f'map{i}' for i in range(method.metadata.num_outputs())]
    return Session({'image': (1, 3, height, width)}, outputs, metadata, run)


LOADERS: dict[str, Callable[[Path, int | None], Session]] = {
    '.onnx': _load_onnx,
    '.xml': _load_openvino,
    '.pte': _load_executorch,
}


@functools.cache
def openvino_core() -> Any:
    """Return the ``openvino.Core`` that this process shares.

    In OpenVINO 2026.4, each Core replaces the signal stack of its thread, and restores
    the former one when it is destroyed. If two Cores are not destroyed in the reverse
    order of their creation, a freed stack stays in use, and the next signal that Python
    handles, for example Ctrl-C, crashes the process.
    """
    require('openvino')
    import openvino

    return openvino.Core()


def require(*packages: str) -> None:
    """Check that optional packages can be imported.

    Args:
        packages (str): Names of the packages.

    Raises:
        UserError: If one can't be imported. The message names the extra to install.
    """
    for name in packages:
        try:
            with without_telemetry():
                importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f'This export needs the package {name}, which cannot be imported '
                f'({error}): pip install "mobilevig_det[export]"'
            ) from error


def without_telemetry() -> AbstractContextManager:
    """Disable the telemetry of OpenVINO and NNCF, as a context manager.

    They send no data if the environment looks like that of a CI job.
    """
    return mock.patch.dict(os.environ, CI='true')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, log messages below ERROR and output to stdout."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
