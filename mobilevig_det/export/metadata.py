"""What an exported file says of itself: all that a program needs to run it."""

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

KEY = 'mobilevig_det'
FORMAT = 1


def make_metadata(
    cfg: Config,
    model: BaseDetector,
    classes: tuple[str, ...],
    part: str,
    fixed_size: tuple[int, int] | None = None,
    int8: bool = False,
) -> dict[str, Any]:
    """The JSON object of docs/export.md, "Metadata".

    Args:
        cfg (Config): The detector's.
        model (BaseDetector): The detector.
        classes (tuple[str, ...]): Their names, by label.
        part (str): ``'detector'`` or ``'backbone'``.
        fixed_size (tuple[int, int] | None): Height and width, if the file
            takes one only.
        int8 (bool): Whether it computes in int8.

    Raises:
        UserError: If images are prepared in a way that it has no words for.
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
        'mean': _by_channel(preprocessor, 'mean', 0.0),
        'std': _by_channel(preprocessor, 'std', 1.0),
        'bgr_to_rgb': bool(preprocessor._channel_conversion),
        **_pipeline(cfg),
        'pad_size_divisor': int(preprocessor.pad_size_divisor),
        'pad_value': preprocessor.pad_value,
        'masks': _masks(model) if part == 'detector' else None,
        'score_thr': test_cfg.get('score_thr'),
        'max_per_img': test_cfg.get('max_per_img'),
        'fixed_size': None if fixed_size is None else list(fixed_size),
        'int8': int8,
        'versions': {
            'mobilevig_det': _version('mobilevig_det'),
            'torch': torch.__version__,
            'onnx': _version('onnx'),
        },
    }


def to_json(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False)


def final_test_cfg(model: BaseDetector) -> ConfigDict:
    """The ``test_cfg`` that decides which detections come out."""
    return model.roi_head.test_cfg if hasattr(model, 'roi_head') else model.test_cfg


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _by_channel(
    preprocessor: DetDataPreprocessor, name: str, default: float
) -> list[float]:
    buffer = getattr(preprocessor, name, None)
    if buffer is None:
        return [default] * 3
    return buffer.flatten().expand(3).tolist()


def _palette(model: BaseDetector) -> list | None:
    """Colours of the classes, (r, g, b), if the checkpoint has them."""
    palette = (getattr(model, 'dataset_meta', None) or {}).get('palette')
    return None if isinstance(palette, str | None) else [list(c) for c in palette]


def _masks(model: BaseDetector) -> dict | None:
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None and roi_head.with_mask:
        return {'kind': 'box', 'threshold': roi_head.test_cfg.mask_thr_binary}
    if hasattr(getattr(model, 'bbox_head', None), 'mask_head'):
        stride = int(model.bbox_head.prior_generator.strides[0][0])
        threshold = model.test_cfg.mask_thr_binary
        swapped = _swaps_factors(model.bbox_head)
        return {
            'kind': 'image',
            'stride': stride,
            'threshold': threshold,
            'swapped': swapped,
        }
    return None


def _swaps_factors(head: RTMDetInsHead) -> bool:
    """Whether the installed MMDetection resizes masks with x's factor in height, as
    OpenMMLab's 3.3 does and OneDL's 3.5.1 doesn't: seen from one mask."""
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
    return height < width  # the height was halved, so that it should be doubled


def _pipeline(cfg: Config) -> dict:
    """How the test pipeline resizes and pads."""
    dataset = next(leaf_datasets(cfg.get('test_dataloader', {}).get('dataset', {})))
    resize = pad = None
    for step in dataset.get('pipeline', ()):
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
