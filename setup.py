"""Packaging. Nothing is pinned: the stack under us is the user's own."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = (ROOT / 'mobilevig_det' / '__init__.py').read_text()

setup(
    name='mobilevig_det',
    version=re.search(r"__version__ = '(.+)'", INIT).group(1),
    description='MobileViG backbones for MMDetection',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mobilevig_det', 'mobilevig_det.*']),
    # .mim links to configs and tools: MMEngine and MIM look for them there.
    package_data={
        'mobilevig_det': [
            'py.typed',
            '.mim/model-index.yml',
            '.mim/configs/**/*.*',
            '.mim/tools/*.*',
        ],
        'mobilevig_det.evaluation': ['data/*'],
    },
    python_requires='>=3.10',
    # Without versions, so that pip replaces nothing a user has; what fits
    # together is checked on import (versions.py).
    install_requires=['numpy', 'torch'],
    extras_require={
        'openmmlab': ['mmengine>=0.10', 'mmcv>=2.0,<2.2', 'mmdet>=3.2,<4'],
        'onedl': ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'],
        'test': [
            'hypothesis',
            'import-linter',
            'mypy',
            'pytest',
            'pytest-timeout',
            'pytest-xdist',
            'ruff',
            'tensorboard',
            'onnxruntime; python_version < "3.14"',
            'onnxscript; python_version < "3.14"',
            'ftfy',
            'regex',  # which MMSegmentation forgets
        ],
    },
    zip_safe=False,
)
