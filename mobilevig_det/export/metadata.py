"""Metadata of exported files, which describes how to preprocess images for them."""

import json
import reprlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmdet.models import BaseDetector, DetDataPreprocessor
from mmdet.models.dense_heads import RTMDetInsHead
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData

from ..datasets import leaf_datasets
from ..errors import UserError

FORMAT = 1
METADATA_KEY = 'mobilevig_det'  # Key in ONNX, OpenVINO and Core ML files.
MAX_LENGTH = 2**20  # Maximum length of the JSON text in characters.
MAX_SIDE = 8192  # Maximum side of an image in pixels.

Check = Callable[[Any], bool]


def _number(low: float, high: float, *types: type) -> Check:
    return lambda x: type(x) in (types or (int, float)) and low <= x <= high


def _list_of(check: Check, length: int | None = None) -> Check:
    return lambda x: type(x) is list and length in (None, len(x)) and all(map(check, x))


def _fields(**checks: Check) -> Check:
    return lambda x: type(x) is dict and all(c(x.get(key)) for key, c in checks.items())


def _one_of(*allowed: Any) -> Check:
    """Accept values that equal one of the constants or pass one of the checks."""
    return lambda x: any(
        y(x) if callable(y) else type(x) is type(y) and x == y for y in allowed
    )


def _is_text(x: Any) -> bool:
    # Unpaired surrogates can't be encoded as UTF-8.
    return type(x) is str and not any('\ud800' <= c <= '\udfff' for c in x)


_flag = _one_of(True, False)
_side, _pixel = _number(1, MAX_SIDE, int), _number(-1e6, 1e6)
_size = _list_of(_side, 2)
_box_masks = _fields(kind=_one_of('box'), threshold=_number(0, 1))
_image_masks = _fields(
    kind=_one_of('image'),
    threshold=_number(1e-6, 1 - 1e-6),  # has a logit
    stride=_number(1, 256, int),
    swapped=_one_of(None, _flag),
)
# Keys that the metadata of a detector must have.
REQUIRED = {
    'part': _one_of('detector', 'backbone'),
    'classes': _list_of(_is_text),
    'mean': _list_of(_pixel, 3),
    'std': _list_of(_number(1e-6, 1e6), 3),
    'bgr_to_rgb': _flag,
    'pad_size_divisor': _side,
    'pad_value': _pixel,
    'masks': _one_of(None, _box_masks, _image_masks),
}
SCHEMA: dict[str, Check] = {
    **REQUIRED,
    'palette': _one_of(None, _list_of(_list_of(_number(0, 255), 3))),
    'resize': _one_of(None, _fields(scale=_size, keep_ratio=_flag)),
    'pad': _one_of(None, _fields(size=_size, value=_list_of(_pixel, 3))),
    'fixed_size': _one_of(None, _size),
    'int8': _flag,
}


def parse_metadata(text: str | None, path: str | Path) -> dict[str, Any]:
    """Parse and validate the metadata of an exported file, which may be untrusted.

    Args:
        text (str | None): The JSON text; None if the file has no metadata.
        path (str | Path): The file, for error messages.

    Returns:
        dict[str, Any]: The metadata, which conforms to ``SCHEMA``.

    Raises:
        UserError: If there is no metadata or it is invalid. The message names the first
            invalid key.
    """
    if text is None:
        raise UserError(
            f'{path} has no metadata of mobilevig_det: tools/export.py did not write '
            'it.'
        )
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError(f'it has more than {MAX_LENGTH} characters')
        metadata = json.loads(text)
        check_metadata(metadata)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'The metadata of {path} cannot be used: {error}. Export the model again '
            'with tools/export.py.'
        ) from error
    return metadata


def check_metadata(metadata: Any) -> None:
    """Check that metadata conforms to ``SCHEMA``.

    Args:
        metadata: The parsed JSON.

    Raises:
        ValueError: If it does not. The message names the first invalid key.
    """
    if type(metadata) is not dict:
        raise ValueError(f'it is {reprlib.repr(metadata)}, not a JSON object')
    version = metadata.get('format')
    if type(version) is not int or version != FORMAT:
        raise ValueError(
            f'its format is {reprlib.repr(version)}; this version of mobilevig_det '
            f'reads format {FORMAT}'
        )
    part = metadata.get('part')
    missing = {*(['part'] if part == 'backbone' else REQUIRED)} - {*metadata}
    if missing:
        raise ValueError(f'it has no {", ".join(sorted(missing))}')
    for key, check in SCHEMA.items():
        if key in metadata and not check(metadata[key]):
            found = reprlib.repr(metadata[key])
            raise ValueError(
                f'{key} is {found}, not what docs/export.md, "Metadata", describes'
            )
    palette = metadata.get('palette')
    if palette is not None and len(palette) < len(metadata.get('classes', [])):
        raise ValueError('palette has fewer colours than there are classes')


def make_metadata(
    cfg: Config,
    model: BaseDetector,
    classes: tuple[str, ...],
    part: str,
    fixed_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Create the metadata of an exported file; see docs/export.md, "Metadata".

    Args:
        cfg (Config): The detector's config.
        model (BaseDetector): The detector.
        classes (tuple[str, ...]): Names of the classes, by label.
        part (str): ``'detector'`` or ``'backbone'``.
        fixed_size (tuple[int, int] | None): Height and width, if the file accepts
            images of one size only.

    Returns:
        dict[str, Any]: The metadata of the float32 file.

    Raises:
        UserError: If the metadata can't describe the preprocessing of the config.
    """
    preprocessor = model.data_preprocessor
    if type(preprocessor) is not DetDataPreprocessor:
        raise UserError(
            f'The images are prepared by {type(preprocessor).__name__}; only '
            'DetDataPreprocessor can be written into an exported file.'
        )
    test_cfg = final_test_cfg(model) if part == 'detector' else ConfigDict()
    metadata = {
        'format': FORMAT,
        'part': part,
        'family': type(model).__name__,
        'config': Path(cfg.filename or 'config').stem,
        'classes': list(classes),
        'palette': _palette(model, len(classes)),
        'mean': by_channel(preprocessor, 'mean'),
        'std': by_channel(preprocessor, 'std'),
        'bgr_to_rgb': bool(preprocessor._channel_conversion),
        **_resize_and_pad(cfg),
        'pad_size_divisor': int(preprocessor.pad_size_divisor),
        'pad_value': preprocessor.pad_value,
        'masks': _masks(model) if part == 'detector' else None,
        'score_thr': test_cfg.get('score_thr'),
        'max_per_img': test_cfg.get('max_per_img'),
        'fixed_size': None if fixed_size is None else list(fixed_size),
        'int8': False,
        'versions': {
            'mobilevig_det': _version('mobilevig_det'),
            'torch': torch.__version__,
            'onnx': _version('onnx'),
        },
    }
    try:
        check_metadata(metadata)
    except ValueError as error:
        raise UserError(
            f'The config cannot be described in the file: {error}.'
        ) from error
    return metadata


def to_json(metadata: dict[str, Any]) -> str:
    """Return metadata as JSON text."""
    return json.dumps(metadata, ensure_ascii=False)


def final_test_cfg(model: BaseDetector) -> ConfigDict:
    """Return the ``test_cfg`` of a detector's last stage."""
    return model.roi_head.test_cfg if hasattr(model, 'roi_head') else model.test_cfg


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def by_channel(preprocessor: torch.nn.Module, name: str) -> list[float]:
    """Return the mean or standard deviation of a data preprocessor.

    Args:
        preprocessor (nn.Module): The data preprocessor.
        name (str): ``'mean'`` or ``'std'``.

    Returns:
        list[float]: One value for each of the three channels.
    """
    default = torch.tensor(0.0 if name == 'mean' else 1.0)
    return getattr(preprocessor, name, default).flatten().expand(3).tolist()


def _palette(model: BaseDetector, number: int) -> list | None:
    """Return the colours (r, g, b) of the classes if the checkpoint has them all."""
    palette = (getattr(model, 'dataset_meta', None) or {}).get('palette')
    if isinstance(palette, str | None) or len(palette) < number:
        return None
    return [list(colour) for colour in palette]


def _masks(model: BaseDetector) -> dict | None:
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None and roi_head.with_mask:
        return {'kind': 'box', 'threshold': roi_head.test_cfg.mask_thr_binary}
    if hasattr(getattr(model, 'bbox_head', None), 'mask_head'):
        return {
            'kind': 'image',
            'stride': int(model.bbox_head.prior_generator.strides[0][0]),
            'threshold': model.test_cfg.mask_thr_binary,
            'swapped': _swaps_scale_factors(model.bbox_head),
        }
    return None


def _swaps_scale_factors(head: RTMDetInsHead) -> bool:
    """Return whether the installed MMDetection resizes masks with swapped factors.

    MMDetection 3.3 of OpenMMLab scales the height by the factor of x, 3.5.1 of OneDL
    does not. The function resizes one mask with two different factors to find out.
    """
    one = InstanceData(
        bboxes=torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
        kernels=torch.zeros(1, head.num_gen_params),
        priors=torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
    )
    nms = dict(type='nms', iou_threshold=0.5)
    found = head._bbox_mask_post_process(
        one,
        torch.zeros(head.num_prototypes, 2, 2),
        ConfigDict(nms=nms, max_per_img=1, mask_thr_binary=0.5),
        rescale=True,
        with_nms=True,
        img_meta=dict(scale_factor=(1.0, 0.5), ori_shape=(10**6, 10**6)),
    )
    height, width = found.masks.shape[-2:]
    return height < width  # y's factor of 0.5 should have doubled the height


def _resize_and_pad(cfg: Config) -> dict:
    """Return how the test pipeline resizes and pads."""
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    resize = pad = None
    for step in next(leaf_datasets(dataset)).get('pipeline', ()):
        kind = step['type'] if isinstance(step['type'], str) else step['type'].__name__
        if kind == 'Resize' and step.get('scale') is not None:
            scale = step['scale']
            resize = {
                'scale': [scale] * 2 if isinstance(scale, int) else list(scale),
                'keep_ratio': bool(step.get('keep_ratio', False)),
            }
        elif kind == 'Pad' and step.get('size') is not None:
            value = step.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, dict) else value
            width, height = step['size']
            value = list(value) if isinstance(value, (list, tuple)) else [value] * 3
            pad = {'size': [height, width], 'value': value}
    return {'resize': resize, 'pad': pad}
