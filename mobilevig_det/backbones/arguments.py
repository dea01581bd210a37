"""Argument checks of the backbones."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from ..errors import UserError

NUM_STAGES = 4
# Far beyond any network; larger values are mistakes, and torch would run out of memory.
MOST = dict(channels=1 << 16, blocks=1 << 10, graph_blocks=1 << 10)
MOST_STRIDE = 1 << 16


def _is_integer(value: Any, least: int, most: int) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and least <= value <= most


def _is_stride(value: Any) -> bool:
    return _is_integer(value, 1, MOST_STRIDE)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _has_type(cfg: Any) -> bool:
    return isinstance(cfg, dict) and 'type' in cfg  # the registry knows the types


_WITH_TYPE = "a dict with a 'type', such as "
_LAYER = (
    lambda v: v is None or _has_type(v),
    f"{_WITH_TYPE}dict(type='BN') or dict(type='GELU')",
)
# What each argument must be: a test, and the words for the message.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'graph_stride': (_is_stride, f'an integer of at least 1 (and up to {MOST_STRIDE})'),
    'drop_path_rate': (lambda v: _is_real(v) and 0 <= v < 1, 'in [0, 1)'),
    'layer_scale_init_value': (_is_real, 'a finite number'),
    'norm_cfg': _LAYER,
    'act_cfg': _LAYER,
    'norm_eval': (_is_bool, 'True or False'),
    'frozen_stages': (
        lambda v: _is_integer(v, -1, NUM_STAGES),
        f'an integer from -1 (nothing) to {NUM_STAGES} (everything)',
    ),
    # Not 1: it equals True, but would switch nothing on.
    'with_cp': (
        lambda v: _is_bool(v) or isinstance(v, str) and v == 'act',
        "True, False or 'act'",
    ),
    'compile_cfg': (
        lambda v: v is None or isinstance(v, dict),
        'None or a dict of arguments of torch.compile',
    ),
    'init_cfg': (
        lambda v: (
            v is None or all(map(_has_type, v if isinstance(v, list | tuple) else [v]))
        ),
        f"None, {_WITH_TYPE}dict(type='Pretrained', checkpoint='mobilevig://m'), or a "
        'list of such',
    ),
    'pretrained': (_is_bool, 'True or False'),
    'triton': (_is_bool, 'True or False'),
}


def check_arguments(**values: Any) -> None:
    """Check arguments by :data:`RULES`.

    Raises:
        UserError: For the first that is not what it must be.
    """
    for name, value in values.items():
        is_valid, expected = RULES[name]
        _require(is_valid(value), name, expected, value)
    if values.get('compile_cfg') is not None and values['with_cp']:
        raise UserError(
            f'compile_cfg={values["compile_cfg"]!r} and with_cp={values["with_cp"]!r}: '
            'torch.compile refuses what is recomputed here; set only one of them.'
        )
    if values.get('triton'):
        warnings.warn(
            'triton=True is deprecated and will be removed in 0.4: the Triton graph '
            'step was removed, and the default one is used. Leave the argument out.',
            DeprecationWarning,
            stacklevel=3,
        )


def _require(valid: bool, name: str, expected: str, value: Any) -> None:
    if not valid:
        raise UserError(f'{name} must be {expected}, but got {value!r}.')


def parse_arch(arch: str | dict, settings: Mapping[str, dict]) -> dict:
    """Return the stages' ``channels``, ``blocks`` and perhaps ``graph_blocks``.

    Args:
        arch (str | dict): A name of ``settings``, in any case, or a dict like those
            there.
        settings (Mapping[str, dict]): The backbone's sizes.

    Raises:
        UserError: If it is neither, or has values out of their range.
    """
    if isinstance(arch, str) and arch.lower() in settings:
        return settings[arch.lower()]
    keys = list(next(iter(settings.values())))
    named = f'{", ".join(map(repr, keys[:-1]))} and {keys[-1]!r}'
    if not isinstance(arch, dict) or set(arch) != set(keys):
        raise UserError(
            f'arch must be one of {", ".join(map(repr, settings))} or a dict with '
            f'exactly {named}, but got {arch!r}.'
        )
    for name, value in arch.items():
        least = int(name != 'graph_blocks')  # stages without any exist
        is_list = isinstance(value, Sequence) and len(value) == NUM_STAGES
        _require(
            is_list and all(_is_integer(v, least, MOST[name]) for v in value),
            f'arch[{name!r}]',
            f'{NUM_STAGES} integers from {least} to {MOST[name]}, one a stage',
            value,
        )
    first = arch['channels'][0]  # half of it are the stem's first convolution's
    _require(first >= 2, "arch['channels'][0]", 'at least 2', first)
    return arch


def parse_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """Return the stages whose features a backbone returns, as a tuple."""
    is_list = isinstance(out_indices, Sequence)
    indices: tuple = tuple(out_indices) if is_list else (out_indices,)  # type: ignore
    are_stages = bool(indices) and all(_is_integer(i, 0, 3) for i in indices)
    valid = are_stages and list(indices) == sorted(set(indices))
    _require(valid, 'out_indices', 'an ascending subset of (0, 1, 2, 3)', out_indices)
    return indices


def check_graph_strides(graph_strides: Sequence[int], number: int) -> None:
    """Check that there are so many graph strides, each in its range."""
    _require(
        isinstance(graph_strides, Sequence)
        and len(graph_strides) == number
        and all(map(_is_stride, graph_strides)),
        'graph_strides',
        f'a list of {number} integers of at least 1 (and up to {MOST_STRIDE})'
        if number
        else 'None, as this backbone has no graph strides',
        graph_strides,
    )
