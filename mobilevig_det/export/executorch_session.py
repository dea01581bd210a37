"""ExecuTorch files in ExecuTorch's Python runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .packages import needed


class ExecuTorchSession:
    """A .pte file, called as the sessions of :mod:`.runtimes` are.

    Args:
        path (Path): Of the file; its metadata is beside it, in a .json file.
        threads (int | None): Of the CPU, for all .pte files of this process; by
            default what the runtime takes.
    """

    def __init__(self, path: Path, threads: int | None = None):
        needed('executorch')
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        described = path.with_suffix('.json')
        if not described.is_file():
            raise UserError(
                f'{path} has no metadata beside it: {described.name} is missing, '
                'which tools/export.py wrote with it.'
            )
        self.metadata: dict[str, Any] = json.loads(described.read_text('utf-8'))
        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        self._method = Runtime.get().load_program(path).load_method('forward')

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        image = arrays['image']
        height_width = tuple(self.metadata['fixed_size'])
        if image.shape != (1, 3, *height_width):
            raise UserError(
                f'This file takes one image of 3 x {height_width[0]} x '
                f'{height_width[1]} (C x H x W), not an array of {image.shape}.'
            )
        image = np.ascontiguousarray(image, dtype=np.float32)
        maps = self._method.execute([torch.from_numpy(image)])
        # Copied, for the runtime writes the next ones to the same place.
        return {f'map{i}': map.numpy().copy() for i, map in enumerate(maps)}
