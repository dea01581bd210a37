"""ImageNet classifiers, with which the backbones are pretrained.

To register the classes of this package, put
``custom_imports = dict(imports=['mobilevig_det.classification'])`` into a config.
"""

from ..datasets import image_folder  # noqa: F401  registers
from .classifier import DistilledHead, ImageClassifier, PyramidHead, load_classifier
from .distillation import DistillingClassifier
from .recipe import ClassifierPreprocessor, TopKAccuracy, WarmupCosineLR

__all__ = [
    'ClassifierPreprocessor',
    'DistilledHead',
    'DistillingClassifier',
    'ImageClassifier',
    'PyramidHead',
    'TopKAccuracy',
    'WarmupCosineLR',
    'load_classifier',
]
