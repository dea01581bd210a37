"""What MMEngine can't build of a config, in one message."""

import traceback

_BUILDING = 'mmengine.registry.build_functions'


def explain_config_slip(error: Exception) -> str | None:
    """One message for a setting that a class doesn't take, or for a class that no
    registry has; else None."""
    inner = []  # functions that the registry called, down to the one that failed
    where = ''
    for frame, line in traceback.walk_tb(error.__traceback__):
        where = f'{frame.f_code.co_filename}:{line}'
        if frame.f_globals.get('__name__') == _BUILDING:
            inner = [_BUILDING]
        elif inner:
            inner.append(frame.f_code.co_name)
    refused = isinstance(error, (AssertionError, TypeError, ValueError)) and str(error)
    if refused and inner and {*inner[1:]} <= {'__init__'}:
        return (
            f'The config does not fit: {error}. Look at that setting, also in '
            f'--cfg-options; it was refused at {where}.'
        )
    if isinstance(error, KeyError) and inner == [_BUILDING]:
        reason = str(error.args[0]).partition('. ')[0]
        return (
            f'The config does not fit: {reason}. Is it spelled right, also in '
            '--cfg-options, and is its module among the custom_imports?'
        )
    return None
