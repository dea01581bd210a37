"""Exported detectors as MMDetection models."""

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

MAX_COORDINATE = 1e6  # Maximum absolute coordinate of a box in pixels.
SUFFIXES = ('.onnx', '.xml', '.pte', '.mlpackage')


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """Detector that runs an exported file in ONNX Runtime or OpenVINO.

    Args:
        path (str): The .onnx or .xml file.
        data_preprocessor (dict, optional): The config of the data preprocessor.
            Defaults to None, which uses the one that the file was exported with.
        classes (Sequence[str], optional): The class names that the file must have.
            Defaults to None, which accepts any classes.

    Raises:
        UserError: If the file isn't a detector, has other classes, or was exported
            with another normalisation than that of ``data_preprocessor``.

    Example:
        >>> model = ExportedDetector('work_dirs/export/mobilevig_ti_fpn_shapes.onnx')
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
                f'has {", ".join(classes)}: use the config that it was exported with.'
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
                f'{path} is not a detector of tools/export.py: its inputs and outputs '
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
                    f'the config has {found}: use the config that it was exported with.'
                )

    @property
    def pipeline(self) -> list[dict]:
        """The test pipeline of the export, without the loading of images."""
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
        """Predict a batch of images.

        Args:
            inputs (Tensor): Preprocessed images of shape (B, 3, H, W).
            data_samples (list[DetDataSample]): The samples, with ``img_shape``,
                ``ori_shape`` and ``scale_factor``.
            mode (str): Only ``'predict'`` is supported.

        Returns:
            list[DetDataSample]: The samples with ``pred_instances``, in coordinates of
            the original images.

        Raises:
            UserError: If ``mode`` is another one, or the outputs are not detections.
        """
        if mode != 'predict':
            raise UserError('An exported detector only predicts.')
        for image, sample in zip(inputs, data_samples):
            found = self.session(
                image=image[None].cpu().numpy(),
                size=np.array(sample.img_shape[:2], np.int64),
            )
            if not self._are_detections(found):
                raise UserError(
                    f'The outputs of {self.path} are not valid detections: boxes or '
                    'scores are not finite, labels have no class, or shapes are wrong. '
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
        """Resize masks to the original image, as MMDetection's heads do.

        Args:
            found (dict): The outputs, with boxes in original image coordinates.
            sample (DetDataSample): The sample, with ``ori_shape`` and ``scale_factor``.

        Returns:
            Tensor: bool of shape (N, H, W).
        """
        masks, spec = found['masks'], self.metadata['masks']
        size = sample.ori_shape[:2]
        if spec['kind'] == 'box':
            return paste_box_masks(masks, found['boxes'], size, spec['threshold'])
        x, y = sample.scale_factor
        # OpenMMLab's MMDetection scales the height by the factor of x.
        factors = (x, y) if spec.get('swapped', True) else (y, x)
        return paste_image_masks(
            masks, size, factors, spec['stride'], spec['threshold']
        )


def use_exported(cfg: Config, path: str) -> None:
    """Replace the model of a config by an exported detector, in place.

    Building the model raises a UserError if the file is not a complete detector, or its
    classes differ from those of the config's test data set.

    Args:
        cfg (Config): The config to modify.
        path (str): The .onnx or .xml file.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    cfg.model = dict(
        type='ExportedDetector',
        path=path,
        data_preprocessor=cfg.model.data_preprocessor,
        classes=list(dataset.metainfo['classes']),
    )
