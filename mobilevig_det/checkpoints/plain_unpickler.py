"""Unpickle checkpoints into plain values, in bounded memory and time.

The safe mode of ``torch.load`` calls allowed functions with any arguments that the file
gives. :class:`PlainUnpickler` calls only functions of :mod:`.plain_values`, which check
their arguments, and charges each value to a :class:`Budget`. This bounds the memory and
the time by the size of the file.
"""

import pickle
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError
from .plain_values import Storage, are_sizes, as_dict, build, check_keys, known_name

# Limits against decompression bombs. Trained weights compress poorly, and nobody saves
# tensors that repeat their values by strides, so that ten times the file's size is more
# than any honest file needs. Content below 16 MiB is harmless.
MAX_EXPANSION = 10
ALWAYS_ALLOWED_BYTES = 16 << 20
_BYTES_PER_VALUE = 48  # a small Python object
_MAX_DEPTH = 100
_SCALARS = (
    *(str, bytes, int, float, complex, bool, type(None)),
    *(torch.dtype, torch.device, torch.Size),
)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)
# The opcodes that torch.save writes, except those that PlainUnpickler overrides.
_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)


class Budget:
    """Limit of the memory, in bytes, that the content of a file may take.

    Args:
        size (int): Size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = ALWAYS_ALLOWED_BYTES + MAX_EXPANSION * size

    def spend(self, count: int) -> None:
        """Subtract bytes from the budget.

        Args:
            count (int): Number of bytes.

        Raises:
            UserError: If the budget is exceeded.
        """
        self.left -= count
        if self.left < 0:
            raise UserError(
                f'its contents claim more than {MAX_EXPANSION} times the '
                f'{self.size:,} bytes of the file. It was made to exhaust the memory, '
                'or it is damaged.'
            )


class _PaidFile(NamedTuple):
    """File whose reads are charged to a budget."""

    file: IO[bytes]
    budget: Budget

    def read(self, count: int) -> bytes:
        self.budget.spend(_BYTES_PER_VALUE + count)
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError('its pickle ends early')
        return data

    def readline(self) -> bytes:
        self.budget.spend(_BYTES_PER_VALUE)
        return self.file.readline(200)  # longer than any known name


class PlainUnpickler(pickle._Unpickler):
    """Unpickler for the values that checkpoints contain.

    Any opcode, name or argument that it doesn't know is an error.

    Args:
        file (IO[bytes]): File, positioned at the beginning of the pickle.
        budget (Budget): Limit of the memory that the values may take.
        load_storage (Callable, optional): Returns the bytes of a storage, a uint8
            tensor, for its key, its dtype and its length in bytes. By default, storages
            are rejected.
    """

    stack: list[Any]
    pop_mark: Callable[[], list]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {  # type: ignore[assignment]
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES
    }

    def __init__(
        self,
        file: IO[bytes],
        budget: Budget,
        load_storage: Callable[[str, torch.dtype, int], Tensor] | None = None,
    ) -> None:
        super().__init__(_PaidFile(file, budget), encoding='utf-8')
        self.budget = budget
        self.load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        """Return our function for a name in the pickle."""
        return known_name(module, name)

    def persistent_load(self, saved_id: Any) -> Storage:
        """Return the storage of a tensor."""
        kind, dtype, key, _, count, *views = saved_id
        if (
            kind != 'storage'
            or self.load_storage is None
            or type(dtype) is not torch.dtype
            or type(key) is not str
            or not are_sizes(count)
            or any(view is not None for view in views)
        ):
            raise UserError('it holds a storage that is damaged.')
        size = count * torch.empty(0, dtype=dtype).element_size()
        return Storage(dtype, self.load_storage(key, dtype, size))

    def _load_call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not FunctionType:  # ours are plain functions
            raise TypeError('a call of something that is not a function')
        self.budget.spend(sum(map(_claimed_bytes, arguments)))
        self.stack.append(function(*arguments))
        self.budget.spend(_claimed_bytes(self.stack[-1]))

    def _load_build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        check_plain(state, self.budget)
        build(value, state)
        self.budget.spend(_claimed_bytes(value))

    def _set_items(self, items: list) -> None:
        keys = check_keys(items[::2])
        as_dict(self.stack[-1]).update(zip(keys, items[1::2], strict=True))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _append_items(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError('items appended to something that is not a list')
        self.stack[-1].extend(items)

    def _load_append(self) -> None:
        self._append_items([self.stack.pop()])

    def _load_appends(self) -> None:
        self._append_items(self.pop_mark())

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = _load_call
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.APPEND[0]] = _load_append
    dispatch[pickle.APPENDS[0]] = _load_appends


def _claimed_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, HistoryBuffer):
        return sum(array.nbytes for array in value.data)
    if isinstance(value, Namespace):
        return 100 * len(vars(value))
    if isinstance(value, str | bytes):
        return len(value)
    return 8 * len(value) if hasattr(value, '__len__') else 0


def check_plain(value: Any, budget: Budget, depth: int = 0) -> None:
    """Check that nested containers hold only plain values, and no cycles.

    A value that is reachable in several ways is visited and charged each time, so that
    cycles and structures of exponential size are rejected.

    Args:
        value (Any): The value to check.
        budget (Budget): Budget that is charged for each visited value.
        depth (int): Number of containers around the value. Defaults to 0.

    Raises:
        UserError: If another type, or too deep a nesting, is found.
    """
    budget.spend(_BYTES_PER_VALUE)
    if type(value) in _SCALARS or isinstance(
        value, Tensor | np.ndarray | np.generic | np.dtype | HistoryBuffer
    ):
        return
    if depth > _MAX_DEPTH:
        raise UserError(f'it holds containers that are nested over {_MAX_DEPTH} times.')
    if isinstance(value, Namespace):
        value = vars(value)
    elif type(value) not in _CONTAINERS:
        raise UserError(
            f'it holds a {type(value).__name__}, which is not a plain value.'
        )
    for child in value.values() if isinstance(value, dict) else value:
        check_plain(child, budget, depth + 1)
