"""What happens to a batch between the loader and the classifier."""

import torch
from mmdet.registry import MODELS
from mmengine.model import ImgDataPreprocessor

from .batch_mixing import BatchMixing

# ImageNet's, of RGB in 0 to 255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class ClassifierPreprocessor(ImgDataPreprocessor):
    """MMEngine's preprocessor, which in training mixes the batch.

    Args:
        mean (Sequence[float]): Of R, G and B, from 0 to 255. Defaults to
            ImageNet's.
        std (Sequence[float]): Likewise.
        mixing (dict, optional): Arguments of :class:`.BatchMixing`. Defaults to
            None: images and labels as they are.
        non_blocking (bool): Defaults to False.
    """

    def __init__(
        self, mean=MEAN, std=STD, mixing: dict | None = None, non_blocking: bool = False
    ) -> None:
        super().__init__(mean, std, bgr_to_rgb=True, non_blocking=non_blocking)
        self.mixing = None if mixing is None else BatchMixing(**mixing)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise, and in training mix, a batch.

        Args:
            data (dict): ``inputs``, uint8 (3, H, W) in BGR each, and
                ``data_samples``.
            training (bool): Whether to mix.

        Returns:
            dict: ``inputs``, (B, 3, H, W), ``data_samples``, and in training
            with mixing ``targets``, (B, num_classes).
        """
        data = super().forward(data, training)
        if training and self.mixing is not None:
            labels = torch.stack([sample.gt_label for sample in data['data_samples']])
            data['inputs'], data['targets'] = self.mixing(
                data['inputs'], labels.to(data['inputs'].device)
            )
        return data
