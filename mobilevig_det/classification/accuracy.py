"""Top-k accuracy of classifiers."""

from collections.abc import Sequence

import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Top-k accuracy of classifiers, in percent: ``accuracy/top1``, ``accuracy/top5``.

    A k is left out if there are no more than k classes. Ties count against the model.

    Args:
        topk (Sequence[int]): Values of k. Defaults to (1, 5).
        collect_device (str): As in MMEngine. Defaults to 'cpu'.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the rank of the correct class of each sample."""
        for sample in data_samples:
            scores = sample['pred_score']
            correct = scores[sample['gt_label']]
            # Not less, rather than greater: ties and NaN count against the model.
            rank = int((~(scores < correct)).sum())
            self.results.append((rank, len(scores)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the accuracies, in percent, from the ranks of all samples."""
        ranks = torch.tensor([rank for rank, _ in results])
        return {
            f'top{k}': 100 * float((ranks <= k).float().mean())
            for k in self.topk
            if k < results[0][1]
        }
