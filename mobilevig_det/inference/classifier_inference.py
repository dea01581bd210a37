"""Run a trained classifier over pictures: the five best classes of each."""

import os

from mmcv.transforms import Compose
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData

from ..backbones import fuse_backbones
from ..classification import load_classifier
from ..config import check_device
from ..datasets.image_folder import list_classes
from .inferencer import PictureModel, Prediction, Prepared


def class_names(cfg: Config) -> tuple[str, ...]:
    """The classes' names where the file has none: the folders of the config's
    data, if that is there, or else their numbers."""
    number = cfg.model.head.get('num_classes', 1000)
    for split in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        folder = os.path.join(
            dataset.get('data_root') or '',
            (dataset.get('data_prefix') or {}).get('img', ''),
        )
        if os.path.isdir(folder) and len(names := list_classes(folder)) == number:
            return tuple(names)
    return tuple(str(i) for i in range(number))


class Classifier(PictureModel):
    """A classifier, for pictures that come one after another.

    What it sees in a picture are its best classes, the best first, as instances
    without a box. Its weights are the raw ones, which the published top-1 is of.

    Args:
        cfg (Config): A whole config of a classifier.
        checkpoint (str): Its file, an address or a name.
        device (str, optional): Defaults to None: a GPU if there is one.
        topk (int): How many classes to tell. Defaults to 5.

    Raises:
        UserError: If the file does not fit the config, or there is no such device.
    """

    no_videos = 'a classifier looks at images only'

    def __init__(
        self, cfg: Config, checkpoint: str, device: str | None = None, topk: int = 5
    ) -> None:
        if device is not None:
            check_device(device)
        init_default_scope(cfg.get('default_scope') or 'mmdet')
        self.model = MODELS.build(cfg.model)
        self.classes = load_classifier(self.model, checkpoint) or class_names(cfg)
        self.topk = min(topk, len(self.classes))
        fuse_backbones(self.model.eval())
        self.model.to(device or get_device())
        # The files are read elsewhere, in the order and with the messages of ours.
        self.pipeline = Compose(
            [
                TRANSFORMS.build(step)
                for step in cfg.test_dataloader.dataset.pipeline
                if step.type != 'LoadImageFromFile'
            ]
            + [self._check_size]
        )

    def look_at(
        self, batch: list[Prepared], model: BaseModel | None = None
    ) -> list[Prediction]:
        return [
            found._replace(sample=self._best(found.sample))
            for found in super().look_at(batch, model)
        ]

    def _check_size(self, data: dict) -> dict:
        """Nothing pads images, as detectors' are, where the config doesn't."""
        least = getattr(self.model.backbone, 'min_size', 1)
        if min(data['inputs'].shape[-2:]) < least:
            raise ValueError(f'the model needs at least {least} x {least}')
        return data

    def _best(self, sample: BaseDataElement) -> DetDataSample:
        scores, labels = sample.pred_score.topk(self.topk)
        best = DetDataSample()
        best.pred_instances = InstanceData(scores=scores, labels=labels)
        return best
