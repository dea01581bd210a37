"""An exported detector in MMDetection's place, so that its evaluator sees it."""

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
from .runtimes import load

SUFFIXES = ('.onnx', '.xml', '.pte', '.mlpackage')


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """A whole detector in its runtime: tensors in, ``DetDataSample`` out.

    Args:
        path (str): The .onnx or .xml file.
        data_preprocessor (dict): The config's.

    Raises:
        UserError: If the file isn't a detector, or wants other tensors than the
            config's ``data_preprocessor`` makes.
    """

    def __init__(self, path: str, data_preprocessor: dict):
        super().__init__(data_preprocessor)
        self.session = load(path)
        self.metadata = self.session.metadata
        if self.metadata['part'] != 'detector':
            raise UserError(_no_detector(path))
        self.dataset_meta = dict(classes=tuple(self.metadata['classes']))
        self._check_normalisation()

    def _check_normalisation(self) -> None:
        for name, default in (('mean', 0.0), ('std', 1.0)):
            buffer = getattr(self.data_preprocessor, name, torch.tensor([default]))
            found = buffer.flatten().expand(3).tolist()
            if not np.allclose(found, self.metadata[name], rtol=1e-5):
                raise UserError(
                    f'The exported model was made with {name} {self.metadata[name]}, '
                    f'the config has {found}: use the config that it was made of.'
                )

    def forward(self, inputs, data_samples=None, mode='tensor') -> list[DetDataSample]:
        """Only ``mode='predict'``: what a detector's ``predict`` returns."""
        if mode != 'predict':
            raise UserError('An exported detector only predicts.')
        for image, sample in zip(inputs, data_samples):
            found = self.session(
                image=image[None].cpu().numpy(),
                size=np.array(sample.img_shape[:2], np.int64),
            )
            tensors = {key: torch.tensor(value) for key, value in found.items()}
            factor = torch.tensor(sample.scale_factor, dtype=torch.float32).repeat(2)
            tensors['boxes'] /= factor
            instances = InstanceData(
                bboxes=tensors['boxes'],
                scores=tensors['scores'],
                labels=tensors['labels'],
            )
            if self.metadata['masks']:
                instances.masks = self._masks(tensors, sample)
            sample.pred_instances = instances
        return data_samples

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
    """Have a config run an exported model, wherever it is read.

    Raises:
        UserError: If it isn't a whole detector, or one of other classes.
    """
    if Path(path).suffix not in ('.onnx', '.xml'):
        raise UserError(_no_detector(path))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
    expected = list(dataset.metainfo['classes'])
    found = load(path).metadata['classes']
    if found != expected:
        raise UserError(
            f'{path} has the classes {", ".join(found)}; the config has '
            f'{", ".join(expected)}: use the config that it was made of.'
        )
    cfg.model = dict(
        type='ExportedDetector',
        path=path,
        data_preprocessor=cfg.model.data_preprocessor,
    )
    imports = cfg.get('custom_imports', {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    cfg.custom_imports = dict(imports=[*imports, __name__])


def _no_detector(path: str) -> str:
    return (
        f'{path} is a backbone, which has no boxes to evaluate: export the whole '
        'detector, with --part detector and --format onnx or openvino.'
    )
