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


def carafe(features, masks, kernel_size, groups, scale):
    """Compute CARAFE of (B, C, H, W) with masks (B, G * k * k, H * s, W * s)."""
    batch, channels, height, width = features.shape
    out = np.zeros((batch, channels, height * scale, width * scale))
    for n, c, y, x in np.ndindex(*out.shape):
        first = c // (channels // groups) * kernel_size**2
        for i, j in np.ndindex(kernel_size, kernel_size):
            row = y // scale + i - kernel_size // 2
            column = x // scale + j - kernel_size // 2
            if 0 <= row < height and 0 <= column < width:
                mask = masks[n, first + i * kernel_size + j, y, x]
                out[n, c, y, x] += features[n, c, row, column] * mask
    return out


def roi_pool(x, rois, size, scale):
    """Compute RoIPool of x (B, C, H, W), and each bin's pixel (row, column) or None."""
    height, width = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *size))
    chosen = np.full(out.shape, None)
    for n, c, p, q in np.ndindex(*out.shape):
        x1, y1, x2, y2 = rois[n, 1:]
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if not np.isfinite(rois[n]).all() or x2 <= x1 or y2 <= y1:
            continue
        bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
        rows = range(
            max(math.floor(p * bin_h + y1), 0),
            min(math.ceil((p + 1) * bin_h + y1), height),
        )
        columns = range(
            max(math.floor(q * bin_w + x1), 0),
            min(math.ceil((q + 1) * bin_w + x1), width),
        )
        if len(rows) and len(columns):
            out[n, c, p, q] = np.finfo(np.float32).min
        for i in rows:
            for j in columns:
                value = x[int(rois[n, 0]), c, i, j]
                if value > out[n, c, p, q] or chosen[n, c, p, q] is None:
                    if not np.isnan(value):
                        out[n, c, p, q], chosen[n, c, p, q] = value, (i, j)
    return out, chosen


def deform_roi_pool(x, rois, offset, size, scale, sampling_ratio, gamma):
    """Compute deformable RoI pooling of x (B, C, H, W); offset may be None."""
    height, width = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *size))
    for n, p, q in np.ndindex(len(rois), *size):
        if not np.isfinite(rois[n]).all():
            continue
        x1, y1, x2, y2 = rois[n, 1:] * scale - 0.5
        w, h = x2 - x1, y2 - y1
        grid_h = sampling_ratio or max(math.ceil(h / size[0]), 0)
        grid_w = sampling_ratio or max(math.ceil(w / size[1]), 0)
        if offset is not None:
            x1 += gamma * w * offset[n, 0, p, q]
            y1 += gamma * h * offset[n, 1, p, q]
        for i, j in np.ndindex(grid_h, grid_w):
            y = y1 + (p + (i + 0.5) / grid_h) * h / size[0]
            z = x1 + (q + (j + 0.5) / grid_w) * w / size[1]
            share = _pixel_weights(y, z, height, width)
            for c in range(x.shape[1]):
                read = share > 0
                value = (share[read] * x[int(rois[n, 0]), c][read]).sum()
                out[n, c, p, q] += value / (grid_h * grid_w)
    return out


def nms_match(dets, iou_threshold):
    """Group boxes (N, 5) by the kept box that suppresses them."""
    left = sorted(range(len(dets)), key=lambda i: -dets[i, 4])
    groups = []
    while left:
        kept, *left = left
        near = [i for i in left if _iou(dets[kept], dets[i], 0) >= iou_threshold]
        groups.append([kept, *near])
        left = [i for i in left if i not in near]
    return groups
