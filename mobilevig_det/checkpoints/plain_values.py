"""Builders for the values that the pickle of a checkpoint may contain.

Each name that a pickle may call is replaced by a function of this module, which checks
its arguments and allocates no more memory than their size justifies.
"""

import math
import re
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError

_MAX_DIMENSIONS = 32


class Storage(NamedTuple):
    """Storage of tensors: its dtype, and its bytes as a uint8 tensor of shape (N,)."""

    dtype: torch.dtype
    data: Tensor


def are_sizes(*values: Any) -> bool:
    """Return whether all values are non-negative integers of at most 63 bits."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _tensor_of(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype
) -> Tensor:
    if (
        type(storage) is not Storage
        or not isinstance(size, tuple)
        or not isinstance(stride, tuple)
        or not len(size) == len(stride) <= _MAX_DIMENSIONS
        or not are_sizes(offset, *size, *stride)
    ):
        raise UserError('it holds a tensor with an invalid shape: it is damaged.')
    empty = torch.empty(0, dtype=dtype, device=storage.data.device)
    end = offset + (
        1 + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else 0
    )
    if end * empty.element_size() > storage.data.numel():
        raise UserError('it holds a tensor with more values than are stored.')
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
    view = Storage(dtype, storage.data)
    return _tensor(view, offset, size, stride, requires_grad, hooks, metadata)


def _parameter(
    data: Any, requires_grad: Any, hooks: Any, state: Any = None
) -> torch.nn.Parameter:
    if not isinstance(data, Tensor):
        raise TypeError('a parameter without a tensor')
    return torch.nn.Parameter(data, requires_grad is True)


def check_keys(keys: Iterable) -> Any:
    """Check keys of a dict or set, so that hashing them is fast.

    Nested tuples could recurse deeply, and large integers could collide on purpose.

    Args:
        keys (Iterable): The keys.

    Returns:
        Iterable: The same keys.

    Raises:
        UserError: If a key is neither text nor a number of at most 64 bits.
    """
    for key in keys:
        if type(key) is int and abs(key) < 1 << 63:
            continue
        if type(key) not in (str, bytes, float, bool, type(None)):
            raise UserError(
                f'a {type(key).__name__} is the key of a dict or set, where text or a '
                'number of at most 64 bits is expected.'
            )
    return keys


def _ordered_dict(pairs: Any = ()) -> OrderedDict:
    check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _size(sizes: Any) -> torch.Size:
    if not isinstance(sizes, tuple) or not are_sizes(*sizes):
        raise TypeError('torch.Size without sizes')
    return torch.Size(sizes)


def _encode(text: Any, encoding: Any) -> bytes:
    """Decode bytes, which pickle protocol 2 writes as text in Latin-1."""
    if type(text) is not str or encoding != 'latin1':
        raise UserError('it calls _codecs.encode for more than bytes.')
    return text.encode('latin1')


def _dtype(code: Any, *_: Any) -> np.dtype:
    if type(code) is not str or not re.fullmatch(r'[biufc]\d{1,2}', code):
        raise UserError(
            f'it holds NumPy values of the type {str(code)[:40]!r}, which are not '
            'numbers.'
        )
    return np.dtype(code)


def _check_values(dtype: Any, data: Any, shape: tuple) -> None:
    if (
        not isinstance(dtype, np.dtype)
        or type(data) is not bytes
        or len(shape) > _MAX_DIMENSIONS
        or not are_sizes(*shape)
        or math.prod(shape) * dtype.itemsize != len(data)
    ):
        raise UserError('it holds a NumPy array that is damaged.')


def _scalar(dtype: Any, data: Any) -> np.generic:
    _check_values(dtype, data, ())
    return np.frombuffer(data, dtype)[0]


def _history_buffer() -> HistoryBuffer:
    return HistoryBuffer()


def _array_type(*_: Any) -> None:
    raise UserError('it calls numpy.ndarray, which takes any amount of memory.')


def _statistic(owner: Any, name: Any) -> str:
    """Accept names of HistoryBuffer's statistics, which are not needed otherwise."""
    HistoryBuffer()  # creating the first one fills the table of statistics
    if owner is not _history_buffer or type(name) is not str:
        name = 'of another object'
    if name not in HistoryBuffer._statistics_methods:
        raise UserError(_could_run_code(f'getattr({name[:40]!r})'))
    return name


def _could_run_code(name: str) -> str:
    return (
        f'next to weights it holds {name}, which could run code when loaded. If you '
        'trust its origin, save only its weights there: '
        "torch.save({'state_dict': weights}, file)."
    )


_KNOWN: dict[str, Any] = {
    'argparse.Namespace': lambda: Namespace(),
    'builtins.bytes': lambda: b'',  # written for empty bytes only
    'builtins.complex': lambda real, imag: complex(float(real), float(imag)),
    'builtins.getattr': _statistic,
    'builtins.set': lambda values: set(check_keys(values)),
    'collections.Counter': lambda counts: Counter(as_dict(counts)),
    'collections.OrderedDict': _ordered_dict,
    'mmengine.logging.history_buffer.HistoryBuffer': _history_buffer,
    'numpy.dtype': _dtype,
    'numpy.ndarray': _array_type,
    # NumPy 2 renamed the module.
    'numpy.core.multiarray._reconstruct': lambda *_: np.empty(0),
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': lambda *_: np.empty(0),
    'numpy._core.multiarray.scalar': _scalar,
    'torch.Size': _size,
    'torch.device': lambda *place: torch.device(*place),
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


def as_dict(value: Any) -> dict:
    """Return a value that must be a dict.

    Raises:
        TypeError: If it is anything else.
    """
    if type(value) not in (dict, OrderedDict, Counter):
        raise TypeError(f'a {type(value).__name__} where a dict is expected')
    return value


def _build_metadata(weights: OrderedDict, state: Any) -> None:
    """Set the versions of modules, which ``state_dict()`` stores as an attribute."""
    metadata = as_dict(state).get('_metadata')
    if metadata is None:
        return
    for versions in as_dict(metadata).values():
        for version in as_dict(versions).values():
            if type(version) not in (int, bool, type(None)):
                raise TypeError('a version of a module that is not a number')
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
        as_dict(state)[key] for key in ('_log_history', '_count_history', 'max_length')
    )
    if (
        not isinstance(values, np.ndarray)
        or not isinstance(counts, np.ndarray)
        or not values.ndim == counts.ndim == 1
        or not are_sizes(length)
    ):
        raise TypeError('a HistoryBuffer without one-dimensional arrays')
    history.__init__(values, counts, length)  # type: ignore[misc]


def _build_namespace(namespace: Namespace, state: Any) -> None:
    vars(namespace).update((str(key), value) for key, value in as_dict(state).items())


_BUILD: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: _build_metadata,
    np.ndarray: _build_array,
    HistoryBuffer: _build_history,
    Namespace: _build_namespace,
}


def build(value: Any, state: Any) -> None:
    """Set the state of a value, as pickle's BUILD does.

    Args:
        value (Any): Object whose state is set.
        state (Any): State that the pickle gives for it.

    Raises:
        UserError: If NumPy values have a foreign byte order, or an array is damaged.
        KeyError, TypeError: If the type has no state, or the state is invalid.
    """
    if isinstance(value, np.dtype):
        _build_dtype(value, state)
    else:
        _BUILD[type(value)](value, state)


def known_name(module: str, name: str) -> Any:
    """Look up the replacement for a name in a pickle.

    Args:
        module (str): Module that the pickle names.
        name (str): Name in that module.

    Returns:
        Any: A function of this module, or a torch dtype.

    Raises:
        UserError: If the name is unknown.
    """
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
            f'it holds {place}, where plain, dense tensors with values are expected. '
            "Save its weights as such: torch.save({'state_dict': weights}, file)."
        )
    raise UserError(_could_run_code(place))
