"""Metadata of exported files: all that a program needs to prepare images for them."""

import json
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


def make_metadata(
    cfg: Config,
    model: BaseDetector,
    classes: tuple[str, ...],
    part: str,
    fixed_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Make the JSON object that docs/export.md, "Metadata", describes.

    Args:
        cfg (Config): The detector's config.
        model (BaseDetector): The detector.
        classes (tuple[str, ...]): Names of the classes, by label.
        part (str): ``'detector'`` or ``'backbone'``.
        fixed_size (tuple[int, int] | None): Height and width, if the file takes
            images of one size only.

    Returns:
        dict[str, Any]: The metadata of the float32 file.

    Raises:
        UserError: If the detector has a data preprocessor that the metadata can't
            describe.
    """
    preprocessor = model.data_preprocessor
    if type(preprocessor) is not DetDataPreprocessor:
        raise UserError(
            f'The images are prepared by {type(preprocessor).__name__}; only '
            'DetDataPreprocessor can be written into an exported file.'
        )
    test_cfg = final_test_cfg(model) if part == 'detector' else ConfigDict()
    return {
        'format': FORMAT,
        'part': part,
        'family': type(model).__name__,
        'config': Path(cfg.filename or 'config').stem,
        'classes': list(classes),
        'palette': _palette(model),
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


def to_json(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False)


def final_test_cfg(model: BaseDetector) -> ConfigDict:
    """Return the ``test_cfg`` of the last stage."""
    return model.roi_head.test_cfg if hasattr(model, 'roi_head') else model.test_cfg


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def by_channel(preprocessor: torch.nn.Module, name: str) -> list[float]:
    """Return the ``'mean'`` or ``'std'`` of a data preprocessor for three channels."""
    default = torch.tensor(0.0 if name == 'mean' else 1.0)
    return getattr(preprocessor, name, default).flatten().expand(3).tolist()


def _palette(model: BaseDetector) -> list | None:
    """Return the classes' colours (r, g, b), if the checkpoint has them."""
    palette = (getattr(model, 'dataset_meta', None) or {}).get('palette')
    return None if isinstance(palette, str | None) else [list(c) for c in palette]


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

    OpenMMLab's 3.3 uses x's factor for the height; OneDL's 3.5.1 doesn't. One mask
    with different factors tells.
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
