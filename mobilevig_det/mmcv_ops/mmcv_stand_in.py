"""What ``import mmcv._ext`` finds where mmcv has no compiled operators.

An installation of ours puts this file beside mmcv's own as ``mmcv/_ext.py``.
Python prefers a compiled ``_ext`` in the same folder, so an mmcv that has its
operators keeps them. ``mmcv.ops`` is half imported when it asks for the names
below; so nothing of ours is imported before one of them is called.
"""


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def operator(*args, **kwargs):
        from mobilevig_det.mmcv_ops import mmcv_ext

        return getattr(mmcv_ext, name)(*args, **kwargs)

    operator.__name__ = name
    globals()[name] = operator
    return operator
