"""Classifiers: what the backbone is pretrained in, and what pretrains it.

``custom_imports = dict(imports=['mobilevig_det.classification'])`` in a config
makes all of it known by name.
"""

from ..datasets import image_folder, image_transforms  # noqa: F401  registers
from .accuracy import TopKAccuracy
from .classifier import ImageClassifier
from .distilling import DistillingClassifier
from .head import DistilledHead
from .loading import load_classifier
from .preprocessor import ClassifierPreprocessor
from .schedule import WarmupCosineLR

__all__ = [
    'ClassifierPreprocessor',
    'DistilledHead',
    'DistillingClassifier',
    'ImageClassifier',
    'TopKAccuracy',
    'WarmupCosineLR',
    'load_classifier',
]
