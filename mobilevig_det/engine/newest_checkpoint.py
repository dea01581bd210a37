"""The newest checkpoint of a folder that is whole."""

import glob
import logging
import os
import re
import zipfile

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..checkpoints import read_checkpoint
from ..errors import UserError
from .current_run import is_of_run, marked_run

POINTER = 'last_checkpoint'


def check_checkpoint(path: str) -> dict:
    """Read a checkpoint that a training is to go on from.

    Returns:
        dict: What it holds.

    Raises:
        UserError: If it is torn or damaged, or holds weights alone.
    """
    checkpoint = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself compares no checksums
        if damaged:
            raise UserError(f'{path} is damaged: {damaged} is not as it was written.')
    missing = {'meta', 'state_dict', 'message_hub'} - set(checkpoint)
    if missing:
        raise UserError(
            f'{path} is no checkpoint of a training: it lacks '
            f'{", ".join(sorted(missing))}.'
        )
    return checkpoint


def resume_from_newest(runner: Runner, folder: str, template: str) -> None:
    """Have MMEngine resume from :func:`find_newest`, or begin as the config does."""
    newest = find_newest_for_all(folder, runner.work_dir, template)
    if newest:
        runner._load_from = newest
        return
    runner._resume = is_of_training(runner._load_from)
    runner.logger.info(
        f'{folder} holds no checkpoint to resume from: '
        + (f'{runner._load_from} it is.' if runner._load_from else 'a new run.')
    )


def is_of_training(path: str | None) -> bool:
    """Whether a training can go on from this file, or only begin with it."""
    if not path or not os.path.isfile(path):
        return False
    try:
        return 'optimizer' in check_checkpoint(path)
    except UserError:
        return False


def find_newest_for_all(folder: str, pointer_folder: str, template: str) -> str | None:
    """:func:`find_newest` on the first process, for all of them; what a killed
    run left half written is removed."""
    answer: list = [None, None]
    if is_main_process():
        try:
            remove_leftovers(folder)
            answer[0] = find_newest(folder, pointer_folder, template)
        except UserError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    newest, problem = answer
    if problem:
        raise UserError(problem)
    return newest


def find_newest(folder: str, pointer_folder: str, template: str) -> str | None:
    """The newest checkpoint of a folder that can be read to its end.

    The pointer ``last_checkpoint`` is a hint: it may be empty, torn or say where
    the folder was before it was moved. A file that is both written later and of
    a later iteration goes before the one that it names (a kill between the two).
    Where a new run began in the folder of an earlier one, only its own count.

    Args:
        folder (str): Where the checkpoints are.
        pointer_folder (str): Where ``last_checkpoint`` is.
        template (str): Of their names, with one ``{}``.

    Returns:
        str | None: Its path; None where there are no checkpoints of the run.

    Raises:
        UserError: If there are some, and not one can be read.
    """
    files = _by_age(folder, pointer_folder, template)
    run, torn, others = marked_run(folder), [], []
    for path in files:
        try:
            checkpoint = check_checkpoint(path)
        except UserError as error:
            torn.append(str(error))
            continue
        if not is_of_run(checkpoint, run):
            others.append(path)
            continue
        for message in torn:
            print_log(f'Passed over: {message}', 'current', level=logging.WARNING)
        return path
    if torn:
        raise UserError(
            'There is nothing to resume from: no checkpoint can be read. Train '
            'without resuming, or name another file. ' + ' '.join(torn)
        )
    if others:
        print_log(
            f'The run that began {run} was ended before its first checkpoint: it '
            f'begins again. {others[0]} is of another run, which goes on if that '
            'file is named.',
            'current',
            level=logging.WARNING,
        )
    return None


def has_checkpoints(folder: str, template: str) -> bool:
    """Whether there are any, whole or not."""
    return bool(_by_age(folder, folder, template))


def remove_leftovers(folder: str) -> None:
    """Remove the files in the middle of whose writing a run was killed."""
    for path in glob.glob(os.path.join(glob.escape(folder), '.*.part')):
        os.remove(path)
        print_log(f'Removed {path}: its writing was cut off.', 'current')


def _by_age(folder: str, pointer_folder: str, template: str) -> list[str]:
    """Paths of the checkpoints, the one to be tried first at the start."""
    start, end = (re.escape(part) for part in template.split('{}'))
    pattern = re.compile(rf'{start}(\d+)(?:_iter_(\d+))?{end}')
    positions = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        match = pattern.fullmatch(name)
        if match:
            positions[name] = tuple(int(number or 0) for number in match.groups())
    modified = {
        name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in positions
    }
    names = sorted(
        positions, key=lambda name: (modified[name], positions[name]), reverse=True
    )
    named = _pointed_to(pointer_folder)
    if named in names:
        later = names[: names.index(named)]
        first = [name for name in later if positions[name] > positions[named]]
        names = [*first, named, *(n for n in names if n not in {*first, named})]
    return [os.path.join(folder, name) for name in names]


def _pointed_to(folder: str) -> str | None:
    """Name of the file that ``last_checkpoint`` names, without its folder."""
    try:
        with open(os.path.join(folder, POINTER), errors='replace') as file:
            return os.path.basename(file.read().strip()) or None
    except OSError:
        return None
