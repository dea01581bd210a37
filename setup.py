"""Packaging. Nothing is pinned: the stack under us is the user's own."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
INIT = (ROOT / 'mobilevig_det' / '__init__.py').read_text()


class BuildWithStandIn(build_py):
    """Add ``mmcv/_ext.py`` and ``mobilevig_det/.mim``.

    Python prefers a compiled ``_ext`` to ours. MMEngine and MIM look for configs and
    tools in ``.mim``, which in a clone holds links to the folders at the root.
    """

    def run(self):
        super().run()
        top = self.build_lib
        if self.editable_mode:
            # The links to our sources are all that pip takes from build_lib.
            top = self.get_finalized_command('install').install_lib
        else:
            self.copy_mim_folder(Path(top, 'mobilevig_det', '.mim'))
        target = Path(top, 'mmcv', '_ext.py')
        target.parent.mkdir(parents=True, exist_ok=True)
        stand_in = ROOT / 'mobilevig_det' / 'mmcv_ops' / 'mmcv_stand_in.py'
        shutil.copyfile(stand_in, target)

    def copy_mim_folder(self, mim):
        shutil.rmtree(mim, ignore_errors=True)
        for name in ('configs', 'tools'):
            ignored = shutil.ignore_patterns('__pycache__', '.*')
            shutil.copytree(ROOT / name, mim / name, ignore=ignored)
        shutil.copyfile(ROOT / 'model-index.yml', mim / 'model-index.yml')


setup(
    name='mobilevig_det',
    version=re.search(r"__version__ = '(.+)'", INIT).group(1),
    description='MobileViG backbones for MMDetection',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    cmdclass={'build_py': BuildWithStandIn},
    packages=find_packages(include=['mobilevig_det', 'mobilevig_det.*']),
    py_modules=['mobilevig_det_cli'],
    entry_points={'console_scripts': ['mobilevig_det = mobilevig_det_cli:main']},
    package_data={
        'mobilevig_det': ['py.typed'],
        'mobilevig_det.evaluation': ['data/*'],
        'mobilevig_det.export.web': ['*.html', '*.js'],
    },
    python_requires='>=3.10',
    # Without versions, so that pip replaces nothing a user has; what fits
    # together is checked on import (versions.py).
    install_requires=['numpy', 'torch'],
    extras_require={
        # Neither compiles anything: mmcv-lite is mmcv without its operators, and
        # onedl-mmcv leaves them out where pip builds it by itself, without torch.
        'openmmlab': [
            'mmengine>=0.10',
            'mmcv-lite>=2.0,<2.2',
            'mmdet>=3.2,<4',
            'setuptools<81',  # for pkg_resources, which mmengine forgets
            'faster-coco-eval',  # the evaluation in C++; not required
        ],
        'onedl': [
            'onedl-mmengine',
            'onedl-mmcv',
            'onedl-mmdetection',
            'faster-coco-eval',
        ],
        # To write and run files of other runtimes, and to compare them.
        'export': [
            f'{name}; python_version < "3.14"'
            for name in (
                'onnx',
                'onnxscript',
                'onnxruntime',
                'openvino',
                'nncf',
                'executorch',
                'coremltools',
            )
        ],
        # To train classifiers on ImageNet: transforms, and the teacher. On OneDL's
        # packages onedl-mmpretrain can stand for mmpretrain.
        'imagenet': ['mmpretrain>=1.2', 'timm>=1.0', 'torchvision'],
        # To detect in millions of images, on many machines.
        'ray': [
            f'{name}; python_version < "3.14"' for name in ('ray[data]', 'pyarrow')
        ],
        'test': [
            'check-jsonschema',  # lints the workflows
            'hypothesis',
            'import-linter>=2.15',
            'mypy',
            'pytest',
            'pytest-timeout',
            'pytest-xdist>=3.7',
            'ruff',
            'setuptools>=70.1',  # builds our wheel by itself, for a test
            'tensorboard',
            'ftfy',
            'regex',  # which MMSegmentation forgets
        ],
    },
    zip_safe=False,
)
