"""Placeholder for the operators under the names of ``mmcv._ext``."""

import torch


def nms(boxes, scores, iou_threshold, offset):
    keep = []
    for i in scores.argsort(descending=True).tolist():
        for j in keep:
            low = torch.maximum(boxes[i, :2], boxes[j, :2])
            high = torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = (high - low + offset).clamp(min=0).prod()
            areas = [(boxes[k, 2:] - boxes[k, :2] + offset).prod() for k in (i, j)]
            if inter / (sum(areas) - inter) > iou_threshold:
                break
        else:
            keep.append(i)
    return torch.tensor(keep, dtype=torch.long)


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(name)

    return missing
