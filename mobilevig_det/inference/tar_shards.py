"""Images in tar files, as WebDataset keeps them."""

import os
import tarfile
from collections.abc import Iterator

from .input_files import IMAGES, Input, Skipped

BLOCK = tarfile.BLOCKSIZE
SHARDS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
# How what is compressed begins, whatever it is called: gzip, bzip2, xz, zstd.
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


def is_shard(name: str) -> bool:
    return name.lower().endswith(SHARDS)


def images_in_shard(path: str, skipped: Skipped) -> Iterator[Input]:
    """The members that are images by their names, ``shard.tar/key.jpg``, in the
    file's order. They aren't read, and not remembered.

    Args:
        path (str): An uncompressed tar file.
        skipped (Skipped): Is told why it can't be read, or not to its end.
    """
    found = False
    try:
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            size = os.fstat(file.fileno()).st_size
            while (member := tar.next()) is not None:
                # Else the headers of a shard would pile up.
                tar.members.clear()  # type: ignore[attr-defined]
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError('unexpected end of data')
                if member.name.lower().endswith(IMAGES):
                    found = True
                    name = f'{path}/{member.name.removeprefix("./")}'
                    yield Input(name, path, member.offset_data, member.size)
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError('the mark of its end is not there')
    except FileNotFoundError:
        skipped(path, 'there is no such file')
    except tarfile.TarError as error:
        reason = f'the tar file is cut off or damaged ({error})'
        if found:
            reason += '; what is before that is done'
        elif _is_compressed(path):
            reason = 'the tar file is compressed: decompress it first'
        skipped(path, reason)
    except OSError as error:
        skipped(path, f'cannot be read: {error.strerror}')
    else:
        if not found:
            skipped(path, 'no images are in this tar file')


def _is_compressed(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(6).startswith(COMPRESSED)
