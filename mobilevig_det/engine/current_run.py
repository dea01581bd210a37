"""Which run a folder's checkpoints are of, where several have been."""

import os
import time
from uuid import uuid4

from mmengine.runner import Runner

from ..io import atomic_write_text

MARKER = 'current_run'
_KEY = 'run'  # in the message hub, and so in each checkpoint


def begin_or_go_on(runner: Runner, folder: str, used: bool) -> None:
    """Name a new run, and leave the name where checkpoints of earlier runs are.

    A run that is killed before its first checkpoint would otherwise be resumed
    from theirs. To be called on the first process when training begins.

    Args:
        runner (Runner): Resumed, if it is to be.
        folder (str): Of the checkpoints.
        used (bool): Whether it holds some.

    Raises:
        OSError: If the name cannot be written.
    """
    hub, marker = runner.message_hub, os.path.join(folder, MARKER)
    resumed = runner._resume or runner.iter > 0
    if not resumed:
        began = time.strftime('%Y-%m-%d %H:%M:%S')
        hub.update_info(_KEY, f'{began} {uuid4().hex[:8]}')
    run = hub.runtime_info.get(_KEY)  # None: a file of MMEngine's own hook
    marked = marked_run(folder)
    if run and run != marked and (marked or (used and not resumed)):
        atomic_write_text(marker, run)
    elif marked and not run:
        os.remove(marker)


def marked_run(folder: str) -> str | None:
    """The name of the folder's newest run, where it was not the first."""
    try:
        with open(os.path.join(folder, MARKER), errors='replace') as file:
            return file.read().strip() or None
    except OSError:
        return None


def is_of_run(checkpoint: dict, run: str | None) -> bool:
    """Whether a checkpoint is of that run; of None, any is."""
    if run is None:
        return True
    return checkpoint['message_hub'].get('runtime_info', {}).get(_KEY) == run
