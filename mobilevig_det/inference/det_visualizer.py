"""MMDetection's visualizer with our drawing, for ``test --show`` and ``--show-dir``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer

from .visualization import draw_detections


@VISUALIZERS.register_module()
class DetectionVisualizer(DetLocalVisualizer):
    """Draw boxes and masks by :func:`.visualization.draw_detections`.

    The arguments are those of MMDetection's ``DetLocalVisualizer``, but the colours,
    the opacity and the line width have no effect.
    """

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: Any,
        classes: Sequence[str] | None,
        palette: Any,
    ) -> np.ndarray:
        """Return an image (RGB) with boxes, masks, names and scores drawn."""
        masks = instances.get('masks')
        if hasattr(masks, 'to_ndarray'):  # annotations
            masks = masks.to_ndarray()
        drawn = draw_detections(
            image[..., ::-1],
            getattr(instances.bboxes, 'tensor', instances.bboxes),
            instances.labels,
            instances.get('scores'),
            classes or (),
            masks,
            palette,
        )
        return np.ascontiguousarray(drawn[..., ::-1])
