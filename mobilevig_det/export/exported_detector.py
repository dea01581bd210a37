"""Run an exported detector as an MMDetection model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from ..datasets.masks import paste_box_masks, paste_image_masks
from ..errors import UserError
from .metadata import by_channel
from .runtimes import load

MAX_COORDINATE = 1e6  # of boxes, in pixels
SUFFIXES = ('.onnx', '.xml', '.pte', '.mlpackage')


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """A whole detector in ONNX Runtime or OpenVINO: tensors in, ``DetDataSample`` out.

    Args:
        path (str): The .onnx or .xml file.
        data_preprocessor (dict, optional): The config's. Defaults to None: the one
            that the file was exported with.
        classes (Sequence[str], optional): The classes that the file must have.
            Defaults to None: any.

    Attributes:
        pipeline (list[dict]): The test pipeline that the file was exported with,
            without the loading of images.

    Raises:
        UserError: If the file isn't a detector, has other classes, or expects other
            tensors than ``data_preprocessor`` makes.
    """

    def __init__(
        self,
        path: str,
        data_preprocessor: dict | None = None,
        classes: Sequence[str] | None = None,
    ):
        session = None
        if Path(path).suffix in ('.onnx', '.xml'):
            session = load(path, torch.get_num_threads())
        if session is None or session.metadata['part'] != 'detector':
            raise UserError(
                f'{path} is a backbone, which has no boxes to evaluate: export the '
                'whole detector, with --part detector and --format onnx or openvino.'
            )
        metadata = session.metadata
        if classes is not None and list(classes) != metadata['classes']:
            raise UserError(
                f'{path} has the classes {", ".join(metadata["classes"])}; the config '
                f'has {", ".join(classes)}: use the config that it was made of.'
            )
        if data_preprocessor is None:
            keys = ('mean', 'std', 'bgr_to_rgb', 'pad_size_divisor', 'pad_value')
            data_preprocessor = {key: metadata[key] for key in keys}
            data_preprocessor['type'] = 'mmdet.DetDataPreprocessor'
        super().__init__(data_preprocessor)
        self.path = path
        self._outputs = ['boxes', 'scores', 'labels']
        if metadata['masks']:
            self._outputs.append('masks')
        missing = {'image', 'size'} ^ {*session.inputs}
        missing |= {*self._outputs} - {*session.outputs}
        if missing:
            raise UserError(
                f'{path} is no detector of tools/export.py: its inputs and outputs '
                f'differ in {", ".join(sorted(missing))}.'
            )
        self.session = session
        self.metadata = metadata
        self.dataset_meta = dict(
            classes=tuple(metadata['classes']), palette=metadata.get('palette')
        )
        for name in ('mean', 'std'):
            found = by_channel(self.data_preprocessor, name)
            if not np.allclose(found, metadata[name], rtol=1e-5):
                raise UserError(
                    f'The exported model was made with {name} {metadata[name]}, '
                    f'the config has {found}: use the config that it was made of.'
                )

    @property
    def pipeline(self) -> list[dict]:
        resize, pad = self.metadata.get('resize'), self.metadata.get('pad')
        steps = []
        if resize:
            steps.append(
                dict(resize, type='mmdet.Resize', scale=tuple(resize['scale']))
            )
        if pad:
            height, width = pad['size']
            value = dict(img=tuple(pad['value']))
            steps.append(dict(type='mmdet.Pad', size=(width, height), pad_val=value))
        keys = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')
        return [*steps, dict(type='mmdet.PackDetInputs', meta_keys=keys)]

    def forward(self, inputs, data_samples=None, mode='tensor') -> list[DetDataSample]:
        """Only ``mode='predict'``: what a detector's ``predict`` returns."""
        if mode != 'predict':
            raise UserError('An exported detector only predicts.')
        for image, sample in zip(inputs, data_samples):
            found = self.session(
                image=image[None].cpu().numpy(),
                size=np.array(sample.img_shape[:2], np.int64),
            )
            if not self._are_detections(found):
                raise UserError(
                    f'{self.path} gives outputs that are no detections: boxes or '
                    'scores that are not finite, labels without a class, other shapes. '
                    'Export the model again with tools/export.py.'
                )
            tensors = {key: torch.tensor(value) for key, value in found.items()}
            factor = torch.tensor(sample.scale_factor, dtype=torch.float32).repeat(2)
            tensors['boxes'] /= factor
            if self.metadata['masks']:
                tensors['masks'] = self._masks(tensors, sample)
            sample.pred_instances = InstanceData(bboxes=tensors.pop('boxes'), **tensors)
        return data_samples

    def _are_detections(self, found: dict[str, np.ndarray]) -> bool:
        if not all(isinstance(found[name], np.ndarray) for name in self._outputs):
            return False
        boxes, scores, labels, *masks = (found[name] for name in self._outputs)
        number = labels.size
        return bool(
            labels.shape == scores.shape == (number,)
            and boxes.shape == (number, 4)
            and all(x.ndim == 3 and len(x) == number for x in masks)
            and all(x.dtype.kind == 'f' for x in (boxes, scores, *masks))
            and labels.dtype.kind == 'i'
            and np.isin(labels, range(len(self.metadata['classes']))).all()
            and np.isfinite(scores).all()
            and (np.abs(boxes) < MAX_COORDINATE).all()  # NaN is not less
        )

    def _masks(self, found: dict, sample: DetDataSample) -> torch.Tensor:
        """Return masks at the original size, as MMDetection's heads make them.

        Args:
            found (dict): The file's outputs, with boxes in the original image.
            sample (DetDataSample): With the ``ori_shape`` and ``scale_factor``.

        Returns:
            Tensor: bool of shape (N, H, W).
        """
        masks, spec = found['masks'], self.metadata['masks']
        size = sample.ori_shape[:2]
        if spec['kind'] == 'box':
            return paste_box_masks(masks, found['boxes'], size, spec['threshold'])
        x, y = sample.scale_factor
        # OpenMMLab's MMDetection resizes the height by the factor of x.
        factors = (x, y) if spec.get('swapped', True) else (y, x)
        return paste_image_masks(
            masks, size, factors, spec['stride'], spec['threshold']
        )


def use_exported(cfg: Config, path: str) -> None:
    """Have a config's Runner run an exported model.

    Building the model raises a UserError if it isn't a whole detector, or one of other
    classes than the config's test data set.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    cfg.model = dict(
        type='ExportedDetector',
        path=path,
        data_preprocessor=cfg.model.data_preprocessor,
        classes=list(dataset.metainfo['classes']),
    )
