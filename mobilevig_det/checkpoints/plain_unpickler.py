"""Build plain values from the pickle of a checkpoint, and nothing else.

The safe mode of ``torch.load`` calls what the file names with the arguments that the
file gives. :class:`PlainUnpickler` calls only the functions of this module, which check
their arguments, and pays for each value from a :class:`Budget`, so that memory and time
are bounded by the file's size.
"""

import math
import pickle
import re
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError

# Weights that others compress shrink little, and nobody repeats tensors by strides. Ten
# times the file's size is far beyond that; below 16 MiB no claim does any harm.
MAX_EXPANSION = 10
ALWAYS_ALLOWED_BYTES = 16 << 20
_BYTES_PER_VALUE = 48  # a small Python object
_MAX_DEPTH = 100
_MAX_DIMENSIONS = 32


class Budget:
    """Bytes that the content of a file may claim.

    Args:
        size (int): Size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = ALWAYS_ALLOWED_BYTES + MAX_EXPANSION * size

    def spend(self, count: int) -> None:
        """Take bytes.

        Raises:
            UserError: If they aren't left.
        """
        self.left -= count
        if self.left < 0:
            raise UserError(
                f'its contents claim more than {MAX_EXPANSION} times the '
                f'{self.size:,} bytes of the file. It is made to fill the memory, or '
                'damaged.'
            )


class _PaidFile(NamedTuple):
    """File that is read within a budget."""

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
        return self.file.readline(200)  # no name that is known is as long


class _Storage(NamedTuple):
    """Values of tensors: their type, and bytes as a one-dimensional uint8 tensor."""

    dtype: torch.dtype
    data: Tensor


def _are_sizes(*values: Any) -> bool:
    """Return whether all are integers from 0 to the largest of 64 bits."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _tensor_of(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype
) -> Tensor:
    if (
        type(storage) is not _Storage
        or not isinstance(size, tuple)
        or not isinstance(stride, tuple)
        or not len(size) == len(stride) <= _MAX_DIMENSIONS
        or not _are_sizes(offset, *size, *stride)
    ):
        raise UserError('it holds a tensor of an invalid shape: it is damaged.')
    empty = torch.empty(0, dtype=dtype, device=storage.data.device)
    end = offset + (
        1 + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else 0
    )
    if end * empty.element_size() > storage.data.numel():
        raise UserError('it holds a tensor of more values than are stored.')
    return empty.set_(storage.data.untyped_storage(), offset, size, stride)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    if metadata:
        raise UserError('it holds a tensor that is a conjugate or negative view.')
    tensor = _tensor_of(storage, offset, size, stride, storage.dtype)
    return tensor.requires_grad_(requires_grad is True)


def _tensor_of_type(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    view = _Storage(dtype, storage.data)
    return _tensor(view, offset, size, stride, requires_grad, hooks, metadata)


def _parameter(
    data: Any, requires_grad: Any, hooks: Any, state: Any = None
) -> torch.nn.Parameter:
    if not isinstance(data, Tensor):
        raise TypeError('a parameter without a tensor')
    return torch.nn.Parameter(data, requires_grad is True)


def _keys(keys: Iterable) -> Any:
    """Return keys whose hashes neither recurse nor collide on purpose."""
    for key in keys:
        if type(key) is int and abs(key) < 1 << 63:
            continue
        if type(key) not in (str, bytes, float, bool, type(None)):
            raise UserError(
                f'a {type(key).__name__} is the key of a dict or set, where text or a '
                'number is expected.'
            )
    return keys


def _ordered_dict(pairs: Any = ()) -> OrderedDict:
    _keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _counter(counts: Any) -> Counter:
    return Counter(dict(_as_dict(counts)))


def _set(values: Any) -> set:
    return set(_keys(values))


def _complex(real: Any, imaginary: Any) -> complex:
    return complex(float(real), float(imaginary))


def _size(sizes: Any) -> torch.Size:
    if not isinstance(sizes, tuple) or not _are_sizes(*sizes):
        raise TypeError('torch.Size of no sizes')
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    return torch.device(kind, index) if index is not None else torch.device(kind)


def _no_bytes() -> bytes:
    return b''


def _encode(text: Any, encoding: Any) -> bytes:
    """How bytes are written in the protocol that torch uses."""
    if type(text) is not str or encoding != 'latin1':
        raise UserError('it calls _codecs.encode for more than bytes.')
    return text.encode('latin1')


def _dtype(code: Any, *_: Any) -> np.dtype:
    if type(code) is not str or not re.fullmatch(r'[biufc]\d{1,2}', code):
        raise UserError(
            f'it holds NumPy values of the type {str(code)[:40]!r}, which are no '
            'numbers.'
        )
    return np.dtype(code)


def _array(*_: Any) -> np.ndarray:
    return np.empty(0)


def _check_values(dtype: Any, data: Any, shape: tuple) -> None:
    if (
        not isinstance(dtype, np.dtype)
        or type(data) is not bytes
        or len(shape) > _MAX_DIMENSIONS
        or not _are_sizes(*shape)
        or math.prod(shape) * dtype.itemsize != len(data)
    ):
        raise UserError('it holds a NumPy array that is damaged.')


def _scalar(dtype: Any, data: Any) -> np.generic:
    _check_values(dtype, data, ())
    return np.frombuffer(data, dtype)[0]


def _history_buffer() -> HistoryBuffer:
    return HistoryBuffer()


def _namespace() -> Namespace:
    return Namespace()


def _array_type(*_: Any) -> None:
    raise UserError('it calls numpy.ndarray, which takes any amount of memory.')


def _statistic(owner: Any, name: Any) -> str:
    """Accept the functions of a HistoryBuffer's table, which is not read."""
    HistoryBuffer()  # the first of a process fills the table
    if owner is not _history_buffer or type(name) is not str:
        name = 'of another object'
    if name not in HistoryBuffer._statistics_methods:
        raise UserError(_could_run_code(f'getattr({name[:40]!r})'))
    return name


def _could_run_code(name: str) -> str:
    return (
        f'next to weights it holds {name}, which could run code when loaded. If you '
        'trust where it comes from, save its weights alone there: '
        "torch.save({'state_dict': weights}, file)."
    )


_KNOWN: dict[str, Any] = {
    'argparse.Namespace': _namespace,
    'builtins.bytes': _no_bytes,
    'builtins.complex': _complex,
    'builtins.getattr': _statistic,
    'builtins.set': _set,
    'collections.Counter': _counter,
    'collections.OrderedDict': _ordered_dict,
    'mmengine.logging.history_buffer.HistoryBuffer': _history_buffer,
    'numpy.dtype': _dtype,
    'numpy.ndarray': _array_type,
    # NumPy 2 renamed the module.
    'numpy.core.multiarray._reconstruct': _array,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': _array,
    'numpy._core.multiarray.scalar': _scalar,
    'torch.Size': _size,
    'torch.device': _device,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_type,
    '_codecs.encode': _encode,
    'torch.storage.UntypedStorage': torch.uint8,
    **{
        f'torch.{name}Storage': dtype
        for name, dtype in dict(
            Double=torch.float64,
            Float=torch.float32,
            Half=torch.float16,
            BFloat16=torch.bfloat16,
            Long=torch.int64,
            Int=torch.int32,
            Short=torch.int16,
            Char=torch.int8,
            Byte=torch.uint8,
            Bool=torch.bool,
            ComplexFloat=torch.complex64,
            ComplexDouble=torch.complex128,
        ).items()
    },
}
_DTYPE = re.compile(r'bool|(bfloat|float|uint|int|complex)\d+\w*')
_SCALARS = (
    *(str, bytes, int, float, complex, bool, type(None)),
    *(torch.dtype, torch.device, torch.Size),
)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)
# The opcodes of torch.save, less those that PlainUnpickler defines.
_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)


def _as_dict(value: Any) -> dict:
    if type(value) not in (dict, OrderedDict, Counter):
        raise TypeError(f'a {type(value).__name__} where a dict is expected')
    return value


def _build_metadata(weights: OrderedDict, state: Any) -> None:
    """Set the versions of modules that ``state_dict()`` keeps next to weights."""
    metadata = _as_dict(state).get('_metadata')
    if metadata is None:
        return
    for versions in _as_dict(metadata).values():
        for version in _as_dict(versions).values():
            if type(version) not in (int, bool, type(None)):
                raise TypeError('a version of a module that is no number')
    weights._metadata = metadata  # type: ignore[attr-defined]


def _build_array(array: np.ndarray, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    _check_values(dtype, data, shape)
    array.__setstate__((1, shape, dtype, fortran is True, data))  # type: ignore


def _build_dtype(dtype: np.dtype, state: Any) -> None:
    if not dtype.newbyteorder(state[1]).isnative:
        raise UserError('it holds NumPy values in the byte order of another machine.')


def _build_history(history: HistoryBuffer, state: Any) -> None:
    values, counts, length = (
        _as_dict(state)[key] for key in ('_log_history', '_count_history', 'max_length')
    )
    if (
        not isinstance(values, np.ndarray)
        or not isinstance(counts, np.ndarray)
        or not values.ndim == counts.ndim == 1
        or not _are_sizes(length)
    ):
        raise TypeError('a HistoryBuffer without one-dimensional arrays')
    history.__init__(values, counts, length)  # type: ignore[misc]


def _build_namespace(namespace: Namespace, state: Any) -> None:
    vars(namespace).update((str(key), value) for key, value in _as_dict(state).items())


_BUILD: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: _build_metadata,
    np.ndarray: _build_array,
    HistoryBuffer: _build_history,
    Namespace: _build_namespace,
}


class PlainUnpickler(pickle._Unpickler):
    """Unpickler of what checkpoints hold.

    Any opcode, name or argument that it doesn't know is an error.

    Args:
        file (IO[bytes]): Where the pickle begins.
        budget (Budget): What its values may take.
        load_storage (Callable, optional): Returns the bytes of a storage, for its key
            and its length in bytes. By default there are no storages.
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
        """Return our function for a name."""
        module = 'builtins' if module == '__builtin__' else module
        place = f'{module}.{name}'[:100]
        place = place if place.isprintable() else ascii(place)
        known = _KNOWN.get(place)
        if known is None and module == 'torch' and _DTYPE.fullmatch(name):
            known = vars(torch).get(name)
        if known is not None:
            return known
        if place.startswith('torch.'):
            raise UserError(
                f'it holds {place}, where plain, dense tensors with values are '
                "expected. Save its weights as such: torch.save({'state_dict': "
                'weights}, file).'
            )
        raise UserError(_could_run_code(place))

    def persistent_load(self, saved_id: Any) -> _Storage:
        """Return the storage of a tensor."""
        kind, dtype, key, _, count, *views = saved_id
        if (
            kind != 'storage'
            or self.load_storage is None
            or type(dtype) is not torch.dtype
            or type(key) is not str
            or not _are_sizes(count)
            or any(view is not None for view in views)
        ):
            raise UserError('it holds a storage that is damaged.')
        size = count * torch.empty(0, dtype=dtype).element_size()
        return _Storage(dtype, self.load_storage(key, dtype, size))

    def _load_call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not FunctionType:  # one of this module
            raise TypeError('a call of no function')
        self.budget.spend(sum(map(_claimed_bytes, arguments)))
        self.stack.append(function(*arguments))
        self.budget.spend(_claimed_bytes(self.stack[-1]))

    def _load_build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        check_plain(state, self.budget)
        if isinstance(value, np.dtype):
            _build_dtype(value, state)
        else:
            _BUILD[type(value)](value, state)
            self.budget.spend(_claimed_bytes(value))

    def _set_items(self, items: list) -> None:
        keys = _keys(items[::2])
        _as_dict(self.stack[-1]).update(zip(keys, items[1::2], strict=True))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _append_items(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError('items for what is no list')
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
    """Check that nested containers hold plain values, and not each other.

    A value that is reached several ways is visited as often, so that neither a cycle
    nor a structure that grows exponentially passes.

    Raises:
        UserError: If anything else is found.
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
        raise UserError(f'it holds a {type(value).__name__}, which is no value.')
    for child in value.values() if isinstance(value, dict) else value:
        check_plain(child, budget, depth + 1)
