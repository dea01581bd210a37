"""``SingleRoIExtractor``: each RoI's features from the level of its size."""

from .boxes import INT64
from .graph import Graph, Value
from .selection import length


def roi_features(g: Graph, extractor, maps: list[Value], rois: Value) -> Value:
    """RoIs (N, 4) -> features (N, C, bins along y, bins along x)."""
    layers = list(extractor.roi_layers)
    if len(layers) == 1:
        return _roi_align(g, layers[0], maps[0], rois)
    levels = map_roi_levels(g, extractor, rois)
    parts, places = [], []
    for i, layer in enumerate(layers):
        place = g.Squeeze(g.NonZero(g.Equal(levels, i)), [0])
        places.append(place)
        parts.append(_roi_align(g, layer, maps[i], g.Gather(rois, place)))
    # Back into their order: one Gather, by the inverse of the permutation.
    order = g.Concat(*places, axis=0)
    count = g.Squeeze(length(g, order), [0])
    inverse = g.ScatterElements(order, order, g.Range(0, count, 1))
    return g.Gather(g.Concat(*parts, axis=0), inverse)


def map_roi_levels(g: Graph, extractor, rois: Value) -> Value:
    """Level of each RoI, int64 (N,)."""
    x1, y1, x2, y2 = g.Split(rois, axis=1, num_outputs=4, outputs=4)
    scale = g.Squeeze(g.Sqrt((x2 - x1) * (y2 - y1)), [1])
    ratio = scale / float(extractor.finest_scale) + 1e-6
    # How many powers of two it reaches: floor(log2(ratio)), clamped, without
    # the rounding of a logarithm.
    powers = [2.0**i for i in range(1, len(extractor.roi_layers))]
    reached = g.GreaterOrEqual(g.Unsqueeze(ratio, [1]), [powers])
    return g.ReduceSum(g.Cast(reached, to=INT64), [1], keepdims=0)


def _roi_align(g: Graph, layer, feature: Value, rois: Value) -> Value:
    height, width = layer.output_size
    return g.RoiAlign(
        feature,
        rois,
        g.Expand(0, length(g, rois)),
        mode='avg',
        output_height=int(height),
        output_width=int(width),
        spatial_scale=float(layer.spatial_scale),
        # Written out, 0 too: OpenVINO takes a missing one for 1.
        sampling_ratio=int(layer.sampling_ratio),
        coordinate_transformation_mode=(
            'half_pixel' if layer.aligned else 'output_half_pixel'
        ),
    )
