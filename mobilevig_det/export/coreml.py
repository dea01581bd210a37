"""Core ML packages, which are converted and checked, but run on Apple devices only."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .backbone import export_program, require_size
from .metadata import METADATA_KEY, to_json
from .runtimes import require

# The first version with float16 programs, which the Neural Engine runs.
MINIMUM_IOS = 16


class _WithNormalisation(nn.Module):
    """Model that first normalises images with values from 0 to 255.

    Core ML's image input supports only one scale for all three channels.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.model = model
        scale = 1 / torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer('scale', scale)
        self.register_buffer('bias', -torch.tensor(mean).view(1, 3, 1, 1) * scale)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model(image * self.scale + self.bias)


def write_coreml(
    model: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> Counter[str]:
    """Write an .mlpackage with an image input, and check its program.

    Only macOS and iOS can run the package. The checks cover the operators of its
    program and the normalisation.

    Args:
        model (nn.Module): Maps normalised images (1, 3, H, W) to feature maps.
        path (str | Path): The package, which is a folder.
        size (tuple[int, int] | None): Height and width of the images.
        metadata (dict): The metadata, from :func:`.metadata.make_metadata`.

    Returns:
        Counter[str]: Number of operations of each type, without constants.

    Raises:
        UserError: If the size is None, the program contains gathers or decomposed
            GELUs, or its normalisation is wrong.
    """
    require('coremltools')
    import coremltools as ct

    height, width = require_size(size, 'coreml')
    mean, std = metadata['mean'], metadata['std']
    program = export_program(
        _WithNormalisation(model, mean, std).eval(), (height, width)
    )
    number = len(program.graph_signature.user_outputs)
    layout = ct.colorlayout.RGB if metadata['bgr_to_rgb'] else ct.colorlayout.BGR
    package = ct.convert(
        program.run_decompositions({}),
        inputs=[
            ct.ImageType('image', shape=(1, 3, height, width), color_layout=layout)
        ],
        outputs=[ct.TensorType(f'map{i}') for i in range(number)],
        minimum_deployment_target=getattr(ct.target, f'iOS{MINIMUM_IOS}'),
        convert_to='mlprogram',
        skip_model_load=True,
    )
    package.user_defined_metadata[METADATA_KEY] = to_json(metadata)
    package.save(str(path))
    operations = read_program(path)
    _check_operators(operations, model)
    _check_normalisation(operations, mean, std)
    return Counter(operation.op_type for operation in operations)


def read_program(path: str | Path) -> list:
    """Return the operations of a package's program, without constants.

    Args:
        path (str | Path): The .mlpackage.

    Returns:
        list: The ``Operation`` objects of coremltools, in order.
    """
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    package = ct.models.MLModel(str(path), skip_model_load=True)
    spec = package.get_spec()
    program = load(
        spec,
        specification_version=spec.specificationVersion,
        file_weights_dir=package.weights_dir,
    )
    operations = program.functions['main'].operations
    return [operation for operation in operations if operation.op_type != 'const']


def _check_operators(operations: list, model: nn.Module) -> None:
    found = Counter(operation.op_type for operation in operations)
    gathers = [name for name in found if 'gather' in name]
    if gathers:
        raise UserError(
            f'The Core ML program has {", ".join(gathers)}, which the Neural '
            'Engine lacks: this is a bug of mobilevig_det or of coremltools.'
        )
    expected = sum(isinstance(module, nn.GELU) for module in model.modules())
    if found['gelu'] != expected:
        raise UserError(
            f'The Core ML program has {found["gelu"]} GELUs of one operation '
            f'each, not {expected}: this version of coremltools spells them out.'
        )


def _check_normalisation(operations: list, mean: list[float], std: list[float]) -> None:
    """Check the program's first operation on black and white pixels."""
    first = next(op for op in operations if op.op_type != 'cast')
    if first.op_type != 'batch_norm':
        raise UserError(
            'The Core ML program does not begin with the normalisation, but with '
            f'{first.op_type}.'
        )
    inputs = {key: np.asarray(port.val, float) for key, port in first.inputs.items()}
    deviation = np.sqrt(inputs['variance'] + inputs['epsilon'])
    for pixel in (0.0, 255.0):
        found = (pixel - inputs['mean']) / deviation * inputs['gamma'] + inputs['beta']
        expected = (pixel - np.array(mean)) / np.array(std)
        if not np.allclose(found, expected, atol=1e-2):
            raise UserError(
                f'The Core ML program normalises pixels of {pixel:.0f} to {found}, not '
                f'to {expected}.'
            )
