"""Find what is wrong with a COCO-format data set before training does.

Every finding is of one of two sorts. Those that stop would end training with
an error, hang it, or teach the wrong thing: an annotated image that can't be
read, an RLE mask of another size, classes in another order. The others are
tolerated as MMDetection and pycocotools tolerate them: the box without area
is left out, the box that reaches outside is clipped.
"""

from .check import check_data
from .report import DataReport, Finding
from .splits import splits_of
from .training import check_before_training, pointing_to_check_data

__all__ = [
    'DataReport',
    'Finding',
    'check_before_training',
    'check_data',
    'pointing_to_check_data',
    'splits_of',
]
