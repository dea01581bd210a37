"""MobileViG for MMDetection.

Importing this package registers its classes in MMDetection's registries.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .deprecation import MovedModules

if TYPE_CHECKING:
    from . import registry
    from .backbones import (
        AdaptViG,
        GreedyViG,
        MobileViG,
        MobileViGv2,
        PyramidViG,
        RapidNet,
        TimmBackbone,
    )
    from .inference.detector import Classifier, Detector

__version__ = '0.3.0'

__all__ = [
    'AdaptViG',
    'Classifier',
    'Detector',
    'GreedyViG',
    'MobileViG',
    'MobileViGv2',
    'PyramidViG',
    'RapidNet',
    'TimmBackbone',
    '__version__',
    'registry',
]

# Public classes, which are imported on first use, and the modules that define them.
_ROOMS = dict.fromkeys(
    'AdaptViG GreedyViG MobileViG MobileViGv2 PyramidViG RapidNet TimmBackbone'.split(),
    'backbones',
) | dict.fromkeys(('Classifier', 'Detector'), 'inference.detector')


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import_module('.registration', __name__)
    value = getattr(import_module(f'.{_ROOMS[name]}', __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _imported_by_command() -> bool:
    """Return whether a command imports the package only to parse its arguments.

    With ``python -m mobilevig_det``, Python imports the package before it runs
    ``__main__.py``; ``sys.argv[0]`` is ``'-m'`` until then.
    """
    entry_point = sys.modules.get('mobilevig_det_cli')
    if entry_point is not None and entry_point.importing_command:
        return True
    module = sys.orig_argv[-len(sys.argv)] if sys.argv[:1] == ['-m'] else ''
    return module in ('mobilevig_det', '-mmobilevig_det')


sys.meta_path.append(MovedModules())
if not _imported_by_command():
    import_module('.registration', __name__)
