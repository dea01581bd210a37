"""Check that the installed versions of MMEngine, mmcv and MMDetection fit together.

The check runs before they are imported, so that the error message names the mismatch.
"""

import importlib
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# Distributions of OpenMMLab and OneDL that provide each module.
DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
}
# Versions of mmcv without its own operators, which ours replace, so that nothing has to
# be compiled. A wheel of onedl-mmcv in pip's cache may be compiled for another torch.
MMCV = {'openmmlab': '"mmcv-lite>=2.0,<2.2"', 'onedl': '--no-cache-dir onedl-mmcv'}


class StackError(ImportError):
    """Error for dependencies that are missing or incompatible with each other."""


def _installed(module: str) -> dict[str, str]:
    """Return the versions of installed distributions that provide a module."""
    found = {}
    for name in DISTRIBUTIONS[module]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """Parse a version: (2, 1, 0) for '2.1.0' and for '2.1.0rc4+cpu'."""
    numbers = [int(n) for n in re.findall(r'\d+', version)[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _folder(module: str) -> Path | None:
    """Return the folder of a module without importing it."""
    spec = find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def _asked_by_mmdet(folder: Path, what: str) -> str | None:
    """Return a version bound from the source of MMDetection's own check, if any."""
    text = (folder / '__init__.py').read_text(encoding='utf-8')
    bound = re.search(what + r"\s*=\s*['\"](.+?)['\"]", text)
    return bound.group(1) if bound else None


def _another_mmcv(installed: dict[str, str], wanted: str) -> str:
    """Return the shell command that replaces mmcv with a version of our choice."""
    remove = f'pip uninstall -y {" ".join(installed)} && ' if installed else ''
    return f'{remove}pip install {wanted}'


def check_stack() -> None:
    """Check that MMEngine, mmcv and MMDetection are installed and compatible.

    They may come from OpenMMLab or from OneDL.

    Raises:
        StackError: If they are missing or incompatible. The message contains the
            command that repairs the installation.
    """
    installed = {module: _installed(module) for module in DISTRIBUTIONS}
    onedl = any(
        name.startswith('onedl-') for found in installed.values() for name in found
    )
    names = {
        'mmengine': 'onedl-mmengine' if onedl else 'mmengine',
        'mmcv': MMCV['onedl' if onedl else 'openmmlab'],
        'mmdet': 'onedl-mmdetection' if onedl else '"mmdet>=3.2,<4"',
    }

    for module, found in installed.items():
        if len(found) > 1:
            every = ' '.join(name for found in installed.values() for name in found)
            twice = ' and '.join(f'{n} {v}' for n, v in found.items())
            mend = (
                f'Remove them all and install one stack: pip uninstall -y '
                f'{every}, then install one (docs/install.md).'
            )
            if module == 'mmcv' and not onedl:
                mend = f'Keep one: {_another_mmcv(found, names["mmcv"])}'
            raise StackError(
                f'{module} is installed twice, one over the other: {twice}. {mend}'
            )

    folders = {
        module: folder for module in DISTRIBUTIONS if (folder := _folder(module))
    }
    for module in ('mmengine', 'mmdet', 'mmcv'):
        if module not in folders:
            raise StackError(f'{module} is not installed: pip install {names[module]}')

    versions = {
        module: next(iter(found.values()), None) for module, found in installed.items()
    }
    mmdet, mmcv = versions['mmdet'], versions['mmcv']
    if mmdet and _numbers(mmdet) < (3, 0, 0):
        raise StackError(
            f'mmdet {mmdet} is installed, but MMDetection 3 is '
            f'required: pip install {names["mmdet"]}'
        )
    least = _asked_by_mmdet(folders['mmdet'], 'mmcv_minimum_version')
    below = _asked_by_mmdet(folders['mmdet'], 'mmcv_maximum_version')
    if mmcv and (
        least
        and _numbers(mmcv) < _numbers(least)
        or below
        and _numbers(mmcv) >= _numbers(below)
    ):
        mend = _another_mmcv(installed['mmcv'], f'"mmcv-lite>={least},<{below}"')
        if onedl:
            mend = 'pip uninstall -y mmdet && pip install onedl-mmdetection'
        raise StackError(
            f'mmcv {mmcv} does not fit mmdet {mmdet}, which asks '
            f'for >={least},<{below}: {mend}'
        )

    helper = folders['mmengine'] / 'utils' / 'package_utils.py'
    if (
        helper.is_file()
        and 'pkg_resources' in helper.read_text('utf-8')
        and find_spec('pkg_resources') is None
    ):
        raise StackError(
            f'mmengine {versions["mmengine"] or ""} needs pkg_resources, '
            'which newer setuptools lack: pip install "setuptools<81"'
        )

    try:
        importlib.import_module('mmcv._ext')
    except ModuleNotFoundError as error:
        if error.name != 'mmcv._ext':  # ours replaces it
            raise
    except ImportError as error:
        if 'libGL' in str(error):
            raise StackError(
                f'OpenCV needs a GUI library that is not installed ({error}): '
                'pip uninstall -y opencv-python && pip install opencv-python-headless'
            ) from None
        if 'mmcv' in (error.path or '') or '_ext' in str(error):
            torch = metadata.version('torch')
            raise StackError(
                f'the operators of mmcv {mmcv} were compiled for another torch than '
                f'{torch} ({error}). mmcv works without them: '
                f'{_another_mmcv(installed["mmcv"], names["mmcv"])}. Or compile it '
                'again (docs/install.md).'
            ) from None
        raise
