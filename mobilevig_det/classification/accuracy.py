"""How often the right class is the best, or among the five best."""

from collections.abc import Sequence

import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Top-k accuracy of classifiers, in percent: ``accuracy/top1`` ….

    With no more than k classes, that k is left out.

    Args:
        topk (Sequence[int]): Defaults to (1, 5).
        collect_device (str): As in MMEngine. Defaults to 'cpu'.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep, of each sample, which place its right class has."""
        for sample in data_samples:
            scores = sample['pred_score']
            right = scores[sample['gt_label']]
            # A tie counts against the model: equal scores know nothing. So does
            # NaN, which is not less than anything either.
            place = int((~(scores < right)).sum())
            self.results.append((place, len(scores)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Percentages of all samples."""
        places = torch.tensor([place for place, _ in results])
        return {
            f'top{k}': 100 * float((places <= k).float().mean())
            for k in self.topk
            if k < results[0][1]
        }
