"""The checkpoint files of a run: which to resume from, which to keep."""

import logging
import os
import re
import stat
import time
import zipfile
from pathlib import Path
from uuid import uuid4

from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

from ..checkpoints import read_checkpoint
from ..checkpoints.safety import describe_non_finite, non_finite_weights
from ..errors import UserError
from ..io import atomic_write, atomic_write_text, leftovers, remove, temporary_path
from .checkpoint_schema import check_training_checkpoint
from .launch import from_main_process

POINTER = 'last_checkpoint'  # as MMEngine names it
_CURRENT_RUN = 'current_run'
_RUN_KEY = 'run'  # in the message hub, and so in each checkpoint
_MIN_KEPT = 2  # the newest may turn out damaged


def read_training_checkpoint(path: str) -> dict:
    """Read a checkpoint to resume from; verify its checksums and its structure.

    Returns:
        dict: Its content.

    Raises:
        UserError: If it is truncated or damaged, or an entry that a training needs is
            missing or malformed.
    """
    checkpoint = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself compares no checksums
        if damaged:
            raise UserError(
                f'{path} is damaged: the checksum of {damaged} is wrong. Resume from '
                'another checkpoint.'
            )
    check_training_checkpoint(checkpoint, path, complete=False)
    return checkpoint


def resume_from_newest(runner: Runner, folder: str, template: str) -> None:
    """Have MMEngine resume from :func:`find_newest`.

    Without such a checkpoint a training checkpoint in ``load_from`` is resumed; any
    other ``load_from`` holds the weights that a new run starts with.

    Args:
        runner (Runner): About to resume.
        folder (str): The folder of the checkpoints.
        template (str): File name of a checkpoint, with one ``{}``.
    """
    newest = find_newest_for_all(folder, runner.work_dir, template)
    if newest:
        runner._load_from = newest
        return
    start = runner._load_from
    runner._resume = _is_training_checkpoint(start)
    runner.logger.info(
        f'{folder} holds no checkpoint to resume from: '
        + (f'{start} is used.' if start else 'a new run begins.')
    )


def _is_training_checkpoint(path: str | None) -> bool:
    if not path or not os.path.isfile(path):
        return False
    try:
        return 'optimizer' in read_training_checkpoint(path)
    except UserError:
        return False


def find_newest_for_all(folder: str, pointer_folder: str, template: str) -> str | None:
    """Search on the first rank and tell the others; delete incomplete files.

    See :func:`find_newest`. Only files of names that a training gives are deleted.
    """
    best = rf'best_.+{re.escape(template.rpartition("{}")[2])}'
    written = '|'.join([_pattern(template).pattern, best, POINTER, _CURRENT_RUN])
    incomplete = re.compile(rf'\.(?:{written})(\.[0-9a-f]{{32}})?\.part')

    def search() -> str | None:
        for path in leftovers(folder):
            is_ours = incomplete.fullmatch(path.name)
            if is_ours and stat.S_ISREG(path.lstat().st_mode):
                if remove(path, MMLogger.get_current_instance()):
                    print_log(f'Removed the incomplete file {path}.', 'current')
        return find_newest(folder, pointer_folder, template)

    return from_main_process(search)


def find_newest(folder: str, pointer_folder: str, template: str) -> str | None:
    """Find the newest checkpoint of a folder that can be read to its end.

    The pointer ``last_checkpoint`` is a hint: it may be empty, truncated, or name the
    folder's former place. A file that is both written later and of a later iteration
    is preferred (the run was killed between the two). If a new run began in the
    folder of an earlier one, only the new run's checkpoints count.

    Args:
        folder (str): The folder of the checkpoints.
        pointer_folder (str): The folder of ``last_checkpoint``.
        template (str): File name of a checkpoint, with one ``{}``.

    Returns:
        str | None: Its path, or None if the run has no checkpoints.

    Raises:
        UserError: If there are checkpoints, but none can be read.
    """
    run = _current_run(folder)
    unreadable: list[str] = []
    other_runs: list[str] = []
    for path in _checkpoints(folder, pointer_folder, template):
        try:
            checkpoint = read_training_checkpoint(path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        if (
            run
            and checkpoint['message_hub'].get('runtime_info', {}).get(_RUN_KEY) != run
        ):
            other_runs.append(path)
            continue
        for message in unreadable:
            print_log(f'Skipped: {message}', 'current', level=logging.WARNING)
        return path
    if unreadable:
        raise UserError(
            'There is nothing to resume from: no checkpoint can be read. Train '
            'without resuming, or name another file. ' + ' '.join(unreadable)
        )
    if other_runs:
        print_log(
            f'The run that began {run} ended before its first checkpoint, so it '
            f'starts again. {other_runs[0]} belongs to another run; to resume that '
            'one, name the file.',
            'current',
            level=logging.WARNING,
        )
    return None


def write_checkpoint(runner: Runner, path: str, expected: dict, **kwargs) -> bool:
    """Write a checkpoint, read it back, and name it in the pointer if it can resume.

    Args:
        runner (Runner): In training.
        path (str): The file.
        expected (dict): The weights that need not be finite, such as masks of -inf.
        **kwargs: Arguments of ``runner.save_checkpoint``.

    Returns:
        bool: False if that failed, which is logged. The older file is kept.
    """

    def check(part: Path) -> None:
        checkpoint = read_training_checkpoint(str(part))
        counts = non_finite_weights(checkpoint['state_dict'])
        if bad := {key: n for key, n in counts.items() if key not in expected}:
            raise UserError(describe_non_finite(bad))

    try:
        if os.path.isdir(path):
            raise IsADirectoryError('a folder of this name is in the way')
        # A folder with the name of the temporary file is somebody else's.
        unique = temporary_path(path).is_dir()
        with atomic_write(path, check, unique) as part:
            folder = str(part.parent)
            runner.save_checkpoint(folder, part.name, by_epoch=False, **kwargs)
        pointer = os.path.join(runner.work_dir, POINTER)
        if kwargs['save_optimizer'] and not os.path.isdir(pointer):
            target = os.path.relpath(path, runner.work_dir)  # the folder may be moved
            atomic_write_text(pointer, target)
    except (OSError, UserError) as error:
        runner.logger.error(
            f'{path} could not be written ({error}). Older checkpoints are kept. '
            'The training continues, and the next checkpoint is tried as usual.'
        )
        return False
    runner.logger.info(f'Saved {path}')
    return True


def relocate_checkpoints(runner: Runner, folder: str, template: str) -> None:
    """Look for a run's earlier checkpoints in the folder, which may have been moved.

    Args:
        runner (Runner): With the message hub of the checkpoint that it resumed from;
            other names than those a training gives are dropped from it.
        folder (str): The folder of the checkpoints.
        template (str): File name of a checkpoint, with one ``{}``.
    """
    hub, named = runner.message_hub, _pattern(template)
    for key, value in list(hub.runtime_info.items()):
        if key.startswith('best_ckpt') and value:
            hub.update_info(key, os.path.join(folder, os.path.basename(value)))
    if kept := hub.runtime_info.get('kept_checkpoints'):
        hub.update_info('kept_checkpoints', [e for e in kept if named.fullmatch(e[0])])


def _pattern(template: str) -> re.Pattern:
    start, end = (re.escape(part) for part in template.split('{}'))
    return re.compile(rf'{start}(\d+)(?:_iter_(\d+))?{end}')


def _checkpoints(folder: str, pointer_folder: str, template: str) -> list[str]:
    """Paths of the checkpoints, in the order in which to try them."""
    positions = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        match = _pattern(template).fullmatch(name)
        # A link may lead nowhere, and a pipe would be waited for.
        if match and os.path.isfile(os.path.join(folder, name)):
            positions[name] = tuple(int(number or 0) for number in match.groups())

    def age(name: str) -> tuple:
        return os.stat(os.path.join(folder, name)).st_mtime_ns, positions[name]

    names = sorted(positions, key=age, reverse=True)
    named = os.path.basename(_read_line(os.path.join(pointer_folder, POINTER)))
    if named in names:
        written_later = names[: names.index(named)]
        first = [n for n in written_later if positions[n] > positions[named]] + [named]
        names = first + [name for name in names if name not in first]
    else:  # the clock may have gone back
        names.sort(key=positions.__getitem__, reverse=True)
    return [os.path.join(folder, name) for name in names]


def outdated_checkpoints(kept: list, max_keep: int) -> list:
    """Apply the retention policy: choose the checkpoints to delete.

    Args:
        kept (list): A run's checkpoints, oldest first: name, and whether it was
            scheduled (by ``interval``, not by time or a signal).
        max_keep (int): Number of scheduled checkpoints to keep; below 1 all.

    Returns:
        list: The entries of ``kept`` that are neither among the newest ``max_keep``
        scheduled ones, nor among the newest two after them, nor needed so that two
        are left.
    """
    scheduled = [number for number, entry in enumerate(kept) if entry[1]]
    last = scheduled[-1] if scheduled else -1
    stay = set(scheduled[-max_keep:] if max_keep > 0 else scheduled)
    stay.update(range(last + 1, len(kept))[-_MIN_KEPT:])
    for number in reversed(range(len(kept))):
        if len(stay) >= _MIN_KEPT:
            break
        stay.add(number)
    return [entry for number, entry in enumerate(kept) if number not in stay]


def begin_run(runner: Runner, folder: str, template: str) -> None:
    """Name a new run, and note the name if the folder has checkpoints of others.

    Otherwise a run that is killed before its first checkpoint would be resumed from
    theirs. To be called on the first rank when training begins.

    Args:
        runner (Runner): After a checkpoint was loaded, if it resumes.
        folder (str): The folder of the checkpoints.
        template (str): File name of a checkpoint, with one ``{}``.

    Raises:
        OSError: If the name can't be written.
    """
    hub, marker = runner.message_hub, os.path.join(folder, _CURRENT_RUN)
    resumed = runner._resume or runner.iter > 0
    if not resumed:
        began = time.strftime('%Y-%m-%d %H:%M:%S')
        hub.update_info(_RUN_KEY, f'{began} {uuid4().hex[:8]}')
    run = hub.runtime_info.get(_RUN_KEY)  # None: a file of MMEngine's own hook
    marked = _current_run(folder)
    used = bool(_checkpoints(folder, folder, template))
    if os.path.isdir(marker):
        print_log(
            f'{marker} is a folder: rename it, or a run that ends before its first '
            'checkpoint cannot be told from the earlier one.',
            'current',
            level=logging.WARNING,
        )
    elif run and run != marked and (marked or (used and not resumed)):
        atomic_write_text(marker, run)
    elif marked and not run:
        os.remove(marker)


def _current_run(folder: str) -> str:
    """Name of the folder's newest run; empty if it was the first."""
    return _read_line(os.path.join(folder, _CURRENT_RUN))


def _read_line(path: str) -> str:
    """Content of a file of one line; empty if it can't be read."""
    try:
        if os.path.isfile(path):  # a pipe would be waited for
            with open(path, errors='replace') as file:
                return file.read(1000).strip()
    except OSError:
        pass
    return ''
