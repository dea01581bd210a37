"""mmcv's operators by their definitions, one value at a time."""

import math

import numpy as np


def roi_align(x, rois, size, scale, sampling_ratio, mode, aligned):
    """Compute RoIAlign of x (B, C, H, W) in float64.

    Also returns the weight of every pixel in every output: (N, C, bins, bins, H, W).
    """
    height, width = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *size))
    weights = np.zeros((*out.shape, height, width))
    for n, roi in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = roi[1:] * scale - (0.5 if aligned else 0)
        w, h = x2 - x1, y2 - y1
        if not np.isfinite(roi).all() or aligned and min(w, h) < 0:
            continue
        if not aligned:
            w, h = max(w, 1), max(h, 1)
        bin_h, bin_w = h / size[0], w / size[1]
        grid_h = sampling_ratio or math.ceil(bin_h)
        grid_w = sampling_ratio or math.ceil(bin_w)
        for p, q in np.ndindex(*size):
            samples = []
            for i, j in np.ndindex(grid_h, grid_w):
                y = y1 + p * bin_h + (i + 0.5) * bin_h / grid_h
                z = x1 + q * bin_w + (j + 0.5) * bin_w / grid_w
                samples.append(_pixel_weights(y, z, height, width))
            for c in range(x.shape[1]):
                image = x[int(roi[0]), c]
                if mode == 'avg':
                    share = sum(samples) / max(len(samples), 1)
                else:
                    share = max(samples, key=lambda s: (s * image).sum(), default=None)
                if share is None:
                    out[n, c, p, q] = -10000
                elif len(samples):
                    weights[n, c, p, q] = share
                    out[n, c, p, q] = (share * image).sum()
    return out, weights


def _pixel_weights(y, x, height, width):
    """Return the weight of each pixel in a sample at (y, x)."""
    share = np.zeros((height, width))
    if not (-1 <= y <= height and -1 <= x <= width):
        return share
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    for i, j in np.ndindex(height, width):
        share[i, j] = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
    return share


def nms(boxes, order, iou_threshold, offset):
    """Return the indices of the boxes that are kept, in ``order``."""
    kept = []
    for i in order:
        if not any(_iou(boxes[i], boxes[j], offset) > iou_threshold for j in kept):
            kept.append(i)
    return kept


def _iou(a, b, offset):
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - w * h
    return w * h / union if union else math.nan  # NaN exceeds no threshold


def bilinear(rows, y, x):
    """Interpolate a map (a list of rows) at (y, x) by the definition.

    The sum over all pixels, each weighted by max(0, 1 - distance) along both axes; 0
    where y or x is not finite.
    """
    if not (math.isfinite(y) and math.isfinite(x)):
        return 0.0
    total = 0.0
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            total += max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j)) * value
    return total
