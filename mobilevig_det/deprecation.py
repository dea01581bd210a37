"""Old type names that keep working for one version."""

import functools
import warnings

from mmengine.registry import Registry


def deprecated_type(old_name: str, new_type: type, registry: Registry) -> type:
    """Register an old type name of a class that has a new one.

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
