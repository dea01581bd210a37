"""Graph steps by their definitions, pixel by pixel."""

import math

import torch


def _shifted(p, n, side):
    """Return the position that a shift by n reads for position p."""
    return (p - n) % side if abs(n) <= side else p


def naive_max_relative(x, stride):
    """MobileViG's graph step of x (B, C, H, W)."""
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for h in range(height):
        for w in range(width):
            here = x[:, :, h, w]
            for i in range(stride, height, stride):
                out[:, :, h, w] = torch.maximum(
                    out[:, :, h, w], here - x[:, :, (h - i) % height, w]
                )
            for i in range(stride, width, stride):
                out[:, :, h, w] = torch.maximum(
                    out[:, :, h, w], here - x[:, :, h, (w - i) % width]
                )
    return out


def cross_max(x, stride):
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for h in range(height):
        for w in range(width):
            here = x[:, :, h, w]
            for n in (stride, -stride):
                for neighbour in (
                    x[:, :, _shifted(h, n, height), w],
                    x[:, :, h, _shifted(w, n, width)],
                ):
                    out[:, :, h, w] = torch.maximum(out[:, :, h, w], neighbour - here)
    return out


def thresholded_max(x, stride):
    """GreedyViG's graph step.

    Also returns each pixel's smallest distance from the threshold, relative to it.
    """
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
        # For a single pixel this is 0 / 0, which is NaN.
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

            take(x[:, :, _shifted(h, stride, height), w])
            take(x[:, :, h, _shifted(w, stride, width)])
            i = 2
            while i <= height:
                take(x[:, :, _shifted(h, i, height), w], gate=True)
                i *= 2
            i = 2
            while i <= width:
                take(x[:, :, h, _shifted(w, i, width)], gate=True)
                i *= 2
    return out
