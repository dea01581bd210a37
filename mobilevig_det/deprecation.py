"""Old names that keep working for one version, with a DeprecationWarning."""

import functools
import pkgutil
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.registry import Registry

_APIS = {
    'add_cfg_options': 'cli.arguments.add_cfg_options',
    'add_runner_arguments': 'cli.arguments.add_runner_arguments',
    'build_runner': 'cli.runner.build_runner',
    'check_device': 'config.check_device',
    'command': 'cli.command.explain_errors',
    'find_checkpoint': 'config.find_checkpoint',
    'find_config': 'config.find_config',
    'load_config': 'config.load_config',
    'prepare_config': 'cli.runner.prepare_config',
}
_OPERATORS = ('deform_conv', 'focal_loss', 'mmcv_ext', 'nms', 'roi_align')
# Old names of modules and of their contents, and the new names.
MOVED = {
    **{f'mobilevig_det.apis.{k}': f'mobilevig_det.{v}' for k, v in _APIS.items()},
    **{f'mobilevig_det.apis.cli.{k}': f'mobilevig_det.{v}' for k, v in _APIS.items()},
    'mobilevig_det.export.new_file': 'mobilevig_det.export.new_files',
    'mobilevig_det.export.prove': 'mobilevig_det.export.verify',
    **{f'mobilevig_det.ops.{k}': f'mobilevig_det.mmcv_ops.{k}' for k in _OPERATORS},
    'mobilevig_det.ops.masked_conv': 'mobilevig_det.mmcv_ops.carafe',
    'mobilevig_det.ops.soft_nms': 'mobilevig_det.mmcv_ops.nms',
    'mobilevig_det.ops.use_on_cpus': 'mobilevig_det.mmcv_ops.use_on_cpus',
    'mobilevig_det.ops.winograd.use_winograd': (
        'mobilevig_det.ops.cpu_fast_paths.apply_cpu_fast_paths'
    ),
    'mobilevig_det.structures.CompactBitmapMasks': (
        'mobilevig_det.datasets.loading.CompactBitmapMasks'
    ),
    'mobilevig_det.structures.mask': 'mobilevig_det.datasets.loading',
}


def moved_names(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module from which names of ``MOVED`` were moved.

    Args:
        module (str): Full name of the module.

    Returns:
        Callable[[str], Any]: Function that warns and returns the moved object.
    """

    def get_moved_name(name: str) -> Any:
        old_name = f'{module}.{name}'
        if old_name not in MOVED:
            raise AttributeError(f'module {module!r} has no attribute {name!r}')
        _warn(old_name, MOVED[old_name])
        return pkgutil.resolve_name(MOVED[old_name])

    return get_moved_name


class MovedModules(MetaPathFinder, Loader):
    """Import the modules of ``MOVED`` under their old names.

    Append an instance to ``sys.meta_path``, so that it handles modules that no other
    finder has found.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of a module under its old name, or None for other modules."""
        if any(f'{old}.'.startswith(f'{fullname}.') for old in MOVED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and replace the module with the one that has the new name."""
        name = module.__name__
        if name in MOVED:
            _warn(name, MOVED[name])
            sys.modules[name] = import_module(MOVED[name])
        else:
            module.__getattr__ = moved_names(name)  # type: ignore[method-assign]


def _warn(old_name: str, new_name: str) -> None:
    warnings.warn(
        f'{old_name} is deprecated and will be removed in 0.4; use {new_name}.',
        DeprecationWarning,
        stacklevel=3,
    )


def deprecated_type(old_name: str, new_type: type, registry: 'Registry') -> type:
    """Register the old type name of a class that was renamed.

    Args:
        old_name (str): The name that configs of the last version use.
        new_type (type): The class under its new name.
        registry (Registry): The registry that ``new_type`` is in.

    Returns:
        type: A subclass of ``new_type`` that behaves the same and raises a
        DeprecationWarning when it is built. Assign it to a module-level name, so that
        ``type='mobilevig_det.engine.OldName'`` finds it as well.

    Example:
        >>> OldHook = deprecated_type('OldHook', NewHook, HOOKS)
    """

    @functools.wraps(new_type.__init__)  # type: ignore[misc]
    def init(self, *args, **kwargs) -> None:
        warnings.warn(
            f'{old_name} is deprecated and will be removed in 0.4; use '
            f'{new_type.__name__}.',
            DeprecationWarning,
            stacklevel=2,
        )
        new_type.__init__(self, *args, **kwargs)  # type: ignore[misc]

    old_type = type(
        old_name,
        (new_type,),
        dict(
            __init__=init,
            __module__=new_type.__module__,
            __doc__=f'Deprecated name of :class:`{new_type.__name__}`.',
        ),
    )
    registry.register_module(name=old_name, module=old_type)
    return old_type
