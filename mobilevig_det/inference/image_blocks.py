"""The images of a run on many machines: where they are, in blocks for the workers.

A block is what a worker does at a time, and a file of rows in the end. Which images
share one depends on the inputs only, so that what a worker does again is the same.
"""

import os
import os.path as osp
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from ..errors import UserError
from .addresses import find_filesystem, image_name, is_address, without_secrets
from .detection_rows import utf8
from .input_files import IMAGES, Skipped, find_inputs
from .input_lists import CHUNK, LISTS, NoList, is_list, split_names

# Images in a block: the many, fewer where that would be too few blocks to share, and
# more where it would be too many files.
FEW, MANY = 8, 200
BLOCKS, FILES = 64, 20_000
SECRETS = '^(s3|gs)://[^/]*:.*@'
# Paths or names are in one of these columns where there are several of text.
NAMES = ('image', 'path', 'name', 'file_name')


class Block(NamedTuple):
    """Neighbours among the images.

    ``file`` is the Parquet file, and ``row_group`` the part of it, that holds them;
    None where they are files themselves.
    """

    start: int
    stop: int
    file: str | None = None
    row_group: int = 0


class Images(NamedTuple):
    """All images of a run, by name, as binary; names need not be UTF-8."""

    names: pa.Array
    blocks: list[Block]


def find_images(where: str, size: int | None, skipped: Skipped) -> Images:
    """The images of a folder, a text file of paths or a Parquet file or folder.

    Args:
        where (str): A local path, or an address as s3://….
        size (int | None): Images in a block; None: by their number.
        skipped (Skipped): Is told of what isn't an image.

    Raises:
        UserError: If there is none, or Parquet has no clear column of names.
    """
    shown = without_secrets(where)
    try:
        images = _find(where, shown, size, skipped)
    except (OSError, UnicodeError, pa.ArrowException, NoList) as error:
        raise UserError(f'{shown} cannot be read: {error}') from error
    if not len(images.names):
        raise UserError(f'There are no images in {shown}.')
    return images


def _find(where: str, shown: str, size: int | None, skipped: Skipped) -> Images:
    filesystem, path = find_filesystem(where)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f'There is no {shown}.')
    files = [path]
    if info.type == fs.FileType.Directory:
        if is_address(where):
            found = filesystem.get_file_info(fs.FileSelector(path))
            files = sorted(f.path for f in found if f.type == fs.FileType.File)
        else:  # pyarrow stumbles over names that are no UTF-8
            files = sorted(osp.join(path, name) for name in os.listdir(path))
    tables = [file for file in files if file.endswith('.parquet')]
    if tables:
        return _of_parquet(shown, filesystem, tables, size)
    if info.type == fs.FileType.File:
        if not is_list(path):
            raise UserError(
                f'{shown} is neither a folder, nor a list of paths '
                f'({" or ".join(LISTS)}), nor Parquet.'
            )
        with filesystem.open_input_stream(path) as file:
            names = list(split_names(lambda: file.read(CHUNK)))
    elif is_address(where):
        found = (file for file in files if file.lower().endswith(IMAGES))
        names = [image_name(where, file).encode() for file in found]
    else:
        paths, videos = find_inputs([where], skipped)
        for video in videos:
            skipped(video, 'a video is for tools/infer.py')
        names = [os.fsencode(path) for path in paths]
    return _in_blocks(shown, pa.array(names, pa.binary()), size)


def _in_blocks(shown: str, names: pa.Array, size: int | None) -> Images:
    names = pc.unique(names)
    if pc.any(pc.match_substring_regex(names, SECRETS)).as_py():
        raise UserError(
            f'{shown} has addresses with credentials, which rows would show. Leave '
            'them out: those of the address of INPUT are used, or AWS_ACCESS_KEY_ID '
            'and AWS_SECRET_ACCESS_KEY.'
        )
    count = len(names)
    size = size or max(FEW, min(MANY, -(-count // BLOCKS)), -(-count // FILES))
    starts = range(0, count, size)
    return Images(names, [Block(at, min(at + size, count)) for at in starts])


def _of_parquet(
    where: str, filesystem: fs.FileSystem, files: list[str], size: int | None
) -> Images:
    name_column, bytes_column = image_columns(
        where, pq.read_schema(files[0], filesystem=filesystem)
    )
    names, blocks, start = [], [], 0
    for path in files:
        with filesystem.open_input_file(path) as opened:
            file = pq.ParquetFile(opened)
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, [name_column]).column(0)
                names.append(column.cast(pa.binary()).combine_chunks())
                stop = start + len(column)
                blocks.append(Block(start, stop, path, group))
                start = stop
    found = pa.concat_arrays(names) if names else pa.array([], pa.binary())
    if found.null_count:
        raise UserError(f'{where}: {found.null_count} names are empty.')
    if bytes_column is None:
        return _in_blocks(where, found, size)
    counts = pc.value_counts(found)
    twice = counts.filter(pc.greater(counts.field('counts'), 1)).field('values')
    if len(twice):
        name = os.fsdecode(twice[0].as_py())
        raise UserError(
            f'{where}: {len(twice)} names stand for several images each, for '
            f'example {name}. Rows are told apart by name: give each its own.'
        )
    return Images(found, blocks)


def image_columns(where: str, schema: pa.Schema) -> tuple[str, str | None]:
    """The column of names or paths, and the column of the files' bytes, if any.

    Raises:
        UserError: If that isn't clear.
    """
    texts = [f.name for f in schema if pa.types.is_string(f.type)]
    texts += [f.name for f in schema if pa.types.is_large_string(f.type)]
    known = [name for name in NAMES if name in texts]
    binaries = [
        f.name
        for f in schema
        if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
    ]
    names = known or texts
    if not names or (len(names) > 1 and not known) or len(binaries) > 1:
        raise UserError(
            f'{where} has the columns {", ".join(schema.names)}: it needs one of text, '
            f'the paths or names (one of {", ".join(NAMES)} where there are several), '
            "and at most one of bytes, the images' files."
        )
    return names[0], binaries[0] if binaries else None


def left_blocks(images: Images, done: pa.Array) -> list[pa.Table]:
    """The blocks of what isn't done, for a dataset: each a table of one row.

    Args:
        images (Images): All of them.
        done (pyarrow.Array): Names as rows have them, see :func:`row_names`.
    """
    left = pc.invert(pc.is_in(row_names(images.names), value_set=done))
    tables = []
    for start, stop, file, row_group in images.blocks:
        rows = pc.indices_nonzero(left.slice(start, stop - start))
        if len(rows):
            names = images.names.slice(start, stop - start).take(rows)
            columns = dict(
                names=[names.to_pylist()],
                rows=[rows.to_pylist()],
                file=pa.array([file], pa.string()),
                row_group=[row_group],
            )
            tables.append(pa.table(columns))
    return tables


def row_names(names: pa.Array) -> pa.Array:
    """Names as rows have them: text."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:  # not all are UTF-8
        return pa.array([utf8(os.fsdecode(name)) for name in names.to_pylist()])
