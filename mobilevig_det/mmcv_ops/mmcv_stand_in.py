"""Module ``mmcv._ext`` where mmcv has no compiled operators.

Installing mobilevig_det copies this file to ``mmcv/_ext.py``. Python prefers a compiled
``_ext`` in the same folder, so that an mmcv with operators keeps them. ``mmcv.ops`` is
only partly imported when it looks up the names below; therefore mobilevig_det is
imported when one of them is called.
"""

import sys
from functools import wraps
from importlib.machinery import PathFinder

# Methods of mmcv that fail before they call an operator: mmcv_ext.REPLACEMENTS.
REPLACED_METHODS = {
    'mmcv.ops.carafe': ('CARAFENaiveFunction.backward',),
    'mmcv.ops.roi_align': ('RoIAlign.forward',),
    'mmcv.ops.sync_bn': ('SyncBatchNorm.__init__', 'SyncBatchNorm.forward'),
}


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def operator(*args, **kwargs):
        from mobilevig_det.mmcv_ops import mmcv_ext

        return getattr(mmcv_ext, name)(*args, **kwargs)

    operator.__name__ = name
    globals()[name] = operator
    return operator


def replace_methods(module):
    """Replace the methods of one of mmcv's modules that fail without its extension."""
    for name in REPLACED_METHODS[module.__name__]:
        class_name, method_name = name.split('.')
        owner = getattr(module, class_name)
        is_static = isinstance(vars(owner)[method_name], staticmethod)
        method = _replacement(name, getattr(owner, method_name))
        setattr(owner, method_name, staticmethod(method) if is_static else method)


def _replacement(name, mmcv_method):
    @wraps(mmcv_method)
    def method(*args, **kwargs):
        from mobilevig_det.mmcv_ops.mmcv_ext import REPLACEMENTS

        return REPLACEMENTS[name](*args, **kwargs)

    return method


class _ReplacingFinder:
    """Finder of modules that replaces methods right after a module is imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in REPLACED_METHODS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            exec_module = _replacing(spec.loader.exec_module)
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _replacing(exec_module):
    def exec_and_replace(module):
        exec_module(module)
        replace_methods(module)

    return exec_and_replace


if __name__ == 'mmcv._ext':
    sys.meta_path.insert(0, _ReplacingFinder)
