"""Top-1 and top-5 against a sort, ties and NaN included."""

from mobilevig_det.classification import TopKAccuracy

import torch


def accuracy(scores, labels):
    metric = TopKAccuracy()
    for score, label in zip(scores, labels):
        metric.process({}, [dict(pred_score=score, gt_label=label)])
    return metric.compute_metrics(metric.results)


def test_top1_and_top5_equal_a_sort():
    torch.manual_seed(0)
    scores, labels = torch.rand(200, 10), torch.randint(10, (200,))
    order = scores.argsort(1, descending=True)
    found = accuracy(scores, labels)
    for k in (1, 5):
        hits = (order[:, :k] == labels[:, None]).any(1).float().mean()
        assert abs(found[f'top{k}'] - 100 * hits) < 1e-4
    assert 5 < found['top1'] < 20


def test_ties_and_nan_count_as_wrong():
    labels = torch.arange(10)
    for value in (0.1, float('nan')):
        scores = torch.full((10, 10), value)
        assert accuracy(scores, labels) == dict(top1=0, top5=0)
