"""The siblings' graph steps pixel by pixel, word for word from their definitions."""

import math

import torch


def moved(p, n, side):
    """Where S(x, n) reads position p."""
    return (p - n) % side if abs(n) <= side else p


def cross_max(x, stride):
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for h in range(height):
        for w in range(width):
            here = x[:, :, h, w]
            for n in (stride, -stride):
                for neighbour in (
                    x[:, :, moved(h, n, height), w],
                    x[:, :, h, moved(w, n, width)],
                ):
                    out[:, :, h, w] = torch.maximum(out[:, :, h, w], neighbour - here)
    return out


def thresholded_max(x, stride):
    """Also each pixel's smallest distance from the threshold, of the threshold."""
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    margin = torch.full((len(x), height, width), math.inf)
    for image, result, nearest in zip(x, out, margin):
        v = image.double()
        far = [
            (v[:, h, w] - v[:, h - -(-height // 2), w - -(-width // 2)]).abs().sum()
            for h in range(height)
            for w in range(width)
        ]
        mean = sum(far) / len(far)
        # 0 / 0 of a single pixel is NaN.
        variance = sum((d - mean) ** 2 for d in far) / torch.tensor(len(far) - 1.0)
        limit = mean - variance.sqrt()
        for h in range(height):
            for w in range(width):
                here = image[:, h, w]
                for neighbour in [
                    *(image[:, h - i, w] for i in range(stride, height, stride)),
                    *(image[:, h, w - i] for i in range(stride, width, stride)),
                ]:
                    distance = (here.double() - neighbour.double()).abs().sum()
                    if distance < limit:
                        result[:, h, w] = torch.maximum(
                            result[:, h, w], neighbour - here
                        )
                    gap = abs(distance - limit) / limit.abs()
                    if not gap >= nearest[h, w]:
                        nearest[h, w] = gap
    return out, margin


def gated_max(x, temperature, stride):
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    scale = abs(float(temperature)) + 1e-6
    for h in range(height):
        for w in range(width):
            here = x[:, :, h, w]

            def take(neighbour, gate=None, h=h, w=w, here=here):
                difference = neighbour - here
                if gate:
                    distance = difference.double().abs().sum(1, keepdim=True)
                    difference = (-distance / scale).exp() * difference
                out[:, :, h, w] = torch.maximum(out[:, :, h, w], difference.to(x.dtype))

            take(x[:, :, moved(h, stride, height), w])
            take(x[:, :, h, moved(w, stride, width)])
            i = 2
            while i <= height:
                take(x[:, :, moved(h, i, height), w], gate=True)
                i *= 2
            i = 2
            while i <= width:
                take(x[:, :, h, moved(w, i, width)], gate=True)
                i *= 2
    return out
