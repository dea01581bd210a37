"""Module ``mmcv._ext`` where mmcv has no compiled operators.

Installing mobilevig_det copies this file to ``mmcv/_ext.py``. Python prefers a compiled
``_ext`` in the same folder, so that an mmcv with operators keeps them. ``mmcv.ops`` is
only partly imported when it looks up the names below; therefore mobilevig_det is
imported when one of them is called.
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
