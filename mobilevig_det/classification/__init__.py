"""ImageNet classifiers: pretraining of the backbones, and its recipe.

``custom_imports = dict(imports=['mobilevig_det.classification'])`` in a config
registers all of it.
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
