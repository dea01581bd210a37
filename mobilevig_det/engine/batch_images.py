"""Names of the images in a batch, whatever it is made of."""

from collections.abc import Mapping
from typing import Any


def image_names(batch: Any) -> list[str]:
    """Paths of a batch's images, or their ids where there are no paths.

    Args:
        batch (Any): What the data loader gave: data samples, in dicts and lists
            as deep as they are.
    """
    info = getattr(batch, 'metainfo', None)
    if isinstance(info, Mapping):
        name = info.get('img_path', info.get('img_id'))
        return [] if name is None else [str(name)]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return [name for part in batch for name in image_names(part)]
    return []
