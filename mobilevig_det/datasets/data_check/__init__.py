"""Find what is wrong with COCO-format data before training does.

A finding either stops training or is tolerated. It stops training if it would end it
with an error, hang it, or teach something wrong: an annotated image that can't be
read, an RLE mask of another size than its image, classes in another order. Anything
else is tolerated, as MMDetection and pycocotools tolerate it: a box without area is
skipped, a box that reaches outside the image is clipped.
"""

from .check import check_before_training, check_data, pointing_to_check_data
from .config import splits_of
from .report import DataReport, Finding

__all__ = [
    'DataReport',
    'Finding',
    'check_before_training',
    'check_data',
    'pointing_to_check_data',
    'splits_of',
]
