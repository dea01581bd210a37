"""The Parquet files of rows that workers have written: what is done."""

import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from ..errors import UserError
from .image_blocks import Images, find_filesystem, row_names

READERS = 16  # files that are opened at once: an object store takes its time


def rows_done(filesystem: fs.FileSystem, folder: str) -> pa.Array:
    """The names of the images that have a row in a folder's files.

    A file that is cut off, as power loss leaves it, is deleted, as is what a killed
    worker had begun: their images aren't done.
    """
    paths = []
    selector = fs.FileSelector(folder, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        if info.path.endswith('.part'):
            filesystem.delete_file(info.path)
        elif info.path.endswith('.parquet'):
            paths.append(info.path)

    def names(path: str) -> pa.ChunkedArray | None:
        try:
            return pq.read_table(path, columns=['image'], filesystem=filesystem)[0]
        except (pa.ArrowException, EOFError):
            filesystem.delete_file(path)
            return None

    with ThreadPoolExecutor(READERS) as pool:
        read = tqdm(
            pool.map(names, paths),
            'Reading what is done',
            len(paths),
            unit='file',
            disable=len(paths) < 100,
        )
        chunks = [c for column in read if column is not None for c in column.chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def check_rows(images: Images, done: pa.Array) -> None:
    """Raise a UserError if not every image has one row."""
    expected, unique = row_names(images.names), done.unique()
    missing = len(expected) - len(expected.filter(pc.is_in(expected, value_set=unique)))
    twice = len(done) - len(unique)
    if missing or twice:
        raise UserError(
            f'{missing} images have no row, and {twice} rows are there twice. '
            'Somebody else writes into this folder, or deletes from it: run again '
            'with --resume, or into another --out-dir.'
        )


def keep_settings(out: str, settings: dict, resume: bool) -> None:
    """Make the folder for rows, and note there what they are made with.

    Args:
        out (str): The folder, or its address.
        settings (dict): What rows depend on.
        resume (bool): Whether to go on in it.

    Raises:
        UserError: If it has rows and they aren't to be gone on with, or are made with
            other settings; or if it can't be written.
    """
    filesystem, folder = find_filesystem(out)
    path = f'{folder}/settings.json'
    try:
        filesystem.create_dir(f'{folder}/rows', recursive=True)
        if filesystem.get_file_info(path).type == fs.FileType.File:
            with filesystem.open_input_stream(path) as file:
                before = json.loads(file.read())
            check_settings(out, before, settings, resume)
            return
        with filesystem.open_output_stream(path) as file:
            file.write(json.dumps(settings, indent=1).encode())
    except OSError as error:
        raise UserError(f'--out-dir {out} cannot be written: {error}') from error


def make_settings(cfg, checkpoint, score_thr):
    return dict(score_thr=score_thr, checkpoint=checkpoint)


def check_settings(out, before, settings, resume):
    if not resume:
        raise UserError(f'{out} has rows already: use --resume or another --out-dir.')
    for k in before:
        if before[k] != settings.get(k):
            raise UserError(f'{out}: {k} {before[k]} != {settings.get(k)}')
