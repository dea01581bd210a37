"""Read the file formats of checkpoints: torch's zip archive, its older format before
1.6, and safetensors.

The archive has one parser, ``zipfile``, so that what is checked is what is read.
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
_END_OF_DIRECTORY = 22  # bytes, without a comment


def _fill(file: IO[bytes], storage: Tensor) -> None:
    """Read a storage, a uint8 tensor, from where the file stands."""
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
    """Read the format of torch since 1.6.

    Args:
        file (IO[bytes]): An archive.
        device (str | torch.device): Where the tensors are to be; 'meta' reads no
            values.
        budget (Budget): What its values may take.

    Returns:
        object: What the file holds.

    Raises:
        UserError: If a check refuses it.
        Exception: Whatever ``zipfile`` raises for damaged archives.
    """
    file.seek(-_END_OF_DIRECTORY, io.SEEK_END)
    if file.read(4) != b'PK\5\6':
        raise UserError(
            f'it is cut off ({budget.size:,} bytes are there), or something was '
            'appended to it: copy or download it again.'
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
                    f'its storage {key[:40]} claims {size:,} bytes, and '
                    f'{entry.file_size:,} are stored: it is damaged.'
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
        raise UserError('its archive has two entries of one name: it is damaged.')
    if any(name.endswith('/constants.pkl') for name in entries):
        raise UserError(
            'it is a TorchScript program, where a checkpoint holds weights. Save its '
            'state_dict() instead.'
        )
    if min(entry.header_offset for entry in entries.values()) != 0 or any(
        entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or (
            entry.compress_type == zipfile.ZIP_STORED
            and entry.compress_size != entry.file_size
        )
        for entry in entries.values()
    ):
        raise UserError('its archive is not of the kind that torch reads.')


def _seek_values(file: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Go to the bytes of a stored entry, after its own header."""
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
        raise UserError('its archive has two different headers of one entry.')
    file.seek(extra, io.SEEK_CUR)


def read_legacy(file: IO[bytes], device: str | torch.device, budget: Budget) -> object:
    """Read the format of torch before 1.6: five pickles, then the storages.

    Args, Returns and Raises: see :func:`read_zip`.
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
            raise ValueError('it does not begin as a file of torch does')
    PlainUnpickler(file, budget).load()  # type sizes
    content = PlainUnpickler(file, budget, reserve).load()
    keys = PlainUnpickler(file, budget).load()
    if any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise UserError('its storages are not those that its tensors need.')
    for key in keys:
        storage, element_size = storages[key]
        if int.from_bytes(file.read(8), 'little') * element_size != len(storage):
            raise UserError(f'its storage {key[:40]} has two sizes: it is damaged.')
        _fill(file, storage)
    return content


def is_safetensors(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is in that format."""
    return start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < 100 << 20


def read_safetensors(path: str, device: str | torch.device) -> object:
    """Read a file of safetensors, whose own reader checks it completely."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError('reading it needs safetensors: pip install safetensors.') from (
            error
        )
    if str(device) == 'meta':
        return {key: value.to('meta') for key, value in load_file(path).items()}
    return load_file(path, device=str(device))
