"""Readers for the file formats of checkpoints.

These are the zip archive that torch has written since 1.6, its older format, and
safetensors. Archives are parsed only by ``zipfile``, so that the checked entries are
the ones that are read.
"""

import io
import struct
import sys
import zipfile
from typing import IO

import torch
from torch import Tensor

from ..errors import UserError
from .plain_unpickler import Budget, PlainUnpickler

_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct('<4s2xHH16xHH')
_END_OF_DIRECTORY = 22  # bytes of the record if the archive has no comment


def _fill(file: IO[bytes], storage: Tensor) -> None:
    """Read the bytes of a storage, a uint8 tensor, from the current file position."""
    if storage.is_meta:
        file.seek(len(storage), io.SEEK_CUR)
        return
    buffer = (
        storage
        if storage.device.type == 'cpu'
        else torch.empty_like(storage, device='cpu')
    )
    if file.readinto(buffer.numpy()) != len(buffer):  # type: ignore[attr-defined]
        raise EOFError('a storage ends early')
    if buffer is not storage:
        storage.copy_(buffer)


def read_zip(file: IO[bytes], device: str | torch.device, budget: Budget) -> object:
    """Read the zip archive that torch has written since 1.6.

    Args:
        file (IO[bytes]): The archive, opened for reading.
        device (str | torch.device): Device of the tensors; 'meta' skips their values.
        budget (Budget): Limit of the memory that the content may take.

    Returns:
        object: Content of the file.

    Raises:
        UserError: If a check rejects the file.
        Exception: Anything that ``zipfile`` raises for a damaged archive.
    """
    file.seek(-_END_OF_DIRECTORY, io.SEEK_END)
    if file.read(4) != b'PK\5\6':
        raise UserError(
            f'it is cut off (it has {budget.size:,} bytes), or something was appended '
            'to it: copy or download it again.'
        )
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        budget.spend(sum(entry.file_size for entry in entries.values()))
        _check_entries(archive, entries)
        (prefix,) = (n[: -len('data.pkl')] for n in entries if n.endswith('/data.pkl'))
        storages: dict[str, Tensor] = {}
        byte_order = prefix + 'byteorder'
        order = archive.read(byte_order) if byte_order in entries else b'little'
        if order not in (b'little', b'big'):
            raise UserError('its byte order is unknown: it is damaged.')

        def load_storage(key: str, dtype: torch.dtype, size: int) -> Tensor:
            entry = entries[f'{prefix}data/{key}']
            if entry.file_size != size:
                raise UserError(
                    f'its storage {key[:40]} should have {size:,} bytes, but has '
                    f'{entry.file_size:,}: it is damaged.'
                )
            if key not in storages:
                storages[key] = storage = torch.empty(
                    size, dtype=torch.uint8, device=device
                )
                if entry.compress_type == zipfile.ZIP_STORED:
                    _seek_values(file, entry)
                    _fill(file, storage)
                else:
                    _fill(io.BytesIO(archive.read(entry)), storage)
                if order.decode() != sys.byteorder and not storage.is_meta:
                    storage.untyped_storage().byteswap(dtype)
            return storages[key]

        data = io.BytesIO(archive.read(prefix + 'data.pkl'))
        return PlainUnpickler(data, budget, load_storage).load()


def _check_entries(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]
) -> None:
    if len(entries) != len(archive.infolist()):
        raise UserError(
            'its archive has two entries with the same name: it is damaged.'
        )
    if any(name.endswith('/constants.pkl') for name in entries):
        raise UserError(
            'it is a TorchScript program, but a checkpoint must hold weights. Save the '
            'state_dict() of the module instead.'
        )
    if min(entry.header_offset for entry in entries.values()) != 0 or any(
        entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or (
            entry.compress_type == zipfile.ZIP_STORED
            and entry.compress_size != entry.file_size
        )
        for entry in entries.values()
    ):
        raise UserError('its archive is not one that torch writes.')


def _seek_values(file: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Seek to the bytes of a stored entry, after its local header."""
    file.seek(entry.header_offset)
    signature, flags, method, name, extra = _LOCAL_HEADER.unpack(
        file.read(_LOCAL_HEADER.size)
    )
    encoding = 'utf-8' if flags & 0x800 else 'cp437'
    if (
        (signature, method) != (b'PK\3\4', entry.compress_type)
        or (flags | entry.flag_bits) & 1  # encrypted
        or file.read(name) != entry.orig_filename.encode(encoding)
    ):
        raise UserError('its archive has two different headers for one entry.')
    file.seek(extra, io.SEEK_CUR)


def read_legacy(file: IO[bytes], device: str | torch.device, budget: Budget) -> object:
    """Read the format of torch before 1.6: five pickles, then the storages.

    The arguments, the result and the errors are those of :func:`read_zip`.
    """
    storages: dict[str, tuple[Tensor, int]] = {}
    unclaimed = budget.size

    def reserve(key: str, dtype: torch.dtype, size: int) -> Tensor:
        nonlocal unclaimed
        if key not in storages:
            unclaimed -= size
            if unclaimed < 0:
                raise UserError('it is cut off: copy or download it again.')
            element_size = torch.empty(0, dtype=dtype).element_size()
            storage = torch.empty(size, dtype=torch.uint8, device=device)
            storages[key] = storage, element_size
        if len(storages[key][0]) != size:
            raise UserError(f'its storage {key[:40]} has two sizes: it is damaged.')
        return storages[key][0]

    for expected in (_MAGIC_NUMBER, _PROTOCOL_VERSION):
        if PlainUnpickler(file, budget).load() != expected:
            raise ValueError('it does not begin like a file of torch')
    PlainUnpickler(file, budget).load()  # type sizes
    content = PlainUnpickler(file, budget, reserve).load()
    keys = PlainUnpickler(file, budget).load()
    if any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise UserError('its storages do not match those that its tensors need.')
    for key in keys:
        storage, element_size = storages[key]
        if int.from_bytes(file.read(8), 'little') * element_size != len(storage):
            raise UserError(f'its storage {key[:40]} has two sizes: it is damaged.')
        _fill(file, storage)
    return content


def is_safetensors(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a safetensors file."""
    return start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < 100 << 20


def read_safetensors(path: str, device: str | torch.device) -> object:
    """Read a safetensors file with the library's own reader, which validates it.

    Args:
        path (str): The file.
        device (str | torch.device): Device of the tensors.

    Returns:
        object: Dict of tensors by name.

    Raises:
        UserError: If safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            'reading it requires safetensors: pip install safetensors.'
        ) from (error)
    if str(device) == 'meta':
        return {key: value.to('meta') for key, value in load_file(path).items()}
    return load_file(path, device=str(device))
