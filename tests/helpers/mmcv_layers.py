"""mmcv's layers with the methods that replace its own where it has no extension."""

import contextlib
import importlib

from mobilevig_det.mmcv_ops import mmcv_stand_in


@contextlib.contextmanager
def replaced_methods(name):
    """Replace the methods of ``mmcv.ops.name`` and restore them."""
    module = importlib.import_module(f'mmcv.ops.{name}')
    owners = [
        getattr(module, method.split('.')[0])
        for method in mmcv_stand_in.REPLACED_METHODS[module.__name__]
    ]
    before = [dict(vars(owner)) for owner in owners]
    mmcv_stand_in.replace_methods(module)
    try:
        yield module
    finally:
        for owner, old in zip(owners, before):
            for key, value in vars(owner).copy().items():
                if value is not old.get(key):
                    setattr(owner, key, old[key])
