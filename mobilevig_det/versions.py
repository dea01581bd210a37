"""Does what is installed fit together? Asked before any of it is imported,
so that a mismatch is named here rather than by whatever breaks first."""

import importlib
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# Which distributions put each module in place: OpenMMLab's and OneDL's.
DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
}
BUILD_MMCV = (
    'pip install "setuptools<80" wheel ninja && MMCV_WITH_OPS=1 pip '
    'install --no-build-isolation --no-deps --force-reinstall {}'
)


class StackError(ImportError):
    """The packages below this one are missing or don't fit together."""


def _installed(module: str) -> dict[str, str]:
    """Version of each installed distribution that provides the module."""
    found = {}
    for name in DISTRIBUTIONS[module]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 1, 0) of '2.1.0' and '2.1.0rc4+cpu' alike."""
    numbers = [int(n) for n in re.findall(r'\d+', version)[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _folder(module: str) -> Path | None:
    """Where a module is, without importing it."""
    spec = find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def _asked_by_mmdet(folder: Path, what: str) -> str | None:
    """A bound that MMDetection's own check has, if it has one."""
    text = (folder / '__init__.py').read_text(encoding='utf-8')
    bound = re.search(what + r"\s*=\s*['\"](.+?)['\"]", text)
    return bound.group(1) if bound else None


def check_stack() -> None:
    """Check MMEngine, mmcv and MMDetection, OpenMMLab's or OneDL's.

    Raises:
        StackError: Names the first mismatch and the command that mends it.
    """
    installed = {module: _installed(module) for module in DISTRIBUTIONS}
    onedl = any(
        name.startswith('onedl-') for found in installed.values() for name in found
    )
    names = {module: ('onedl-' if onedl else '') + module for module in DISTRIBUTIONS}
    names['mmdet'] = 'onedl-mmdetection' if onedl else '"mmdet>=3.2,<4"'

    for module, found in installed.items():
        if len(found) > 1:
            every = ' '.join(name for found in installed.values() for name in found)
            twice = ' and '.join(f'{n} {v}' for n, v in found.items())
            raise StackError(
                f'{module} is installed twice, one over the other: {twice}. '
                f'Remove them all and install one stack: pip uninstall -y '
                f'{every}, then install one (docs/install.md).'
            )

    folders = {
        module: folder for module in DISTRIBUTIONS if (folder := _folder(module))
    }
    for module in ('mmengine', 'mmdet', 'mmcv'):
        if module not in folders:
            command = (
                BUILD_MMCV.format(names['mmcv'] if onedl else '"mmcv>=2.0,<2.2"')
                if module == 'mmcv'
                else f'pip install {names[module]}'
            )
            raise StackError(f'{module} is not installed: {command}')

    versions = {
        module: next(iter(found.values()), None) for module, found in installed.items()
    }
    mmdet, mmcv = versions['mmdet'], versions['mmcv']
    if mmdet and _numbers(mmdet) < (3, 0, 0):
        raise StackError(
            f'mmdet {mmdet} is installed, and MMDetection 3 is '
            f'needed: pip install {names["mmdet"]}'
        )
    least = _asked_by_mmdet(folders['mmdet'], 'mmcv_minimum_version')
    below = _asked_by_mmdet(folders['mmdet'], 'mmcv_maximum_version')
    if mmcv and (
        least
        and _numbers(mmcv) < _numbers(least)
        or below
        and _numbers(mmcv) >= _numbers(below)
    ):
        mend = BUILD_MMCV.format(f'"mmcv>={least},<{below}"')
        if onedl:
            mend = 'pip uninstall -y mmdet && pip install onedl-mmdetection'
        raise StackError(
            f'mmcv {mmcv} does not fit mmdet {mmdet}, which asks '
            f'for >={least},<{below}: {mend}'
        )

    operators = list(folders['mmcv'].glob('_ext.*'))
    spec = names['mmcv'] + (f'=={mmcv}' if mmcv else '')
    if not operators:
        lite = next(iter(installed['mmcv']), 'mmcv')
        raise StackError(
            f'{lite} {mmcv or ""} has no compiled operators (mmcv._ext): pip '
            f'uninstall -y {lite} && {BUILD_MMCV.format(spec)}'
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
    except ImportError as error:
        if 'mmcv' in (error.path or '') or '_ext' in str(error):
            torch = metadata.version('torch')
            raise StackError(
                f'the operators of mmcv {mmcv} were compiled for another '
                f'torch than {torch} ({error}): {BUILD_MMCV.format(spec)}'
            ) from None
        raise
