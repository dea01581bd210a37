"""Argument checks of the backbones."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from ..errors import UserError

NUM_STAGES = 4
# Far beyond any network; larger values are mistakes, and torch would run out of memory.
MOST = dict(channels=1 << 16, blocks=1 << 10, graph_blocks=1 << 10)
MOST_STRIDE = 1 << 16


def _require(valid: bool, name: str, expected: str, value: Any) -> None:
    if not valid:
        raise UserError(f'{name} must be {expected}, but got {value!r}.')


def _is_integer(value: Any, least: int, most: int) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and least <= value <= most


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
        _require(
            isinstance(value, Sequence)
            and all(_is_integer(v, least, MOST[name]) for v in value),
            f'arch[{name!r}]',
            f'a list of {"positive integers" if least else "integers of at least 0"} '
            f'up to {MOST[name]}',
            value,
        )
    if any(len(value) != NUM_STAGES for value in arch.values()):
        raise UserError(
            f'{named} of arch must all have {NUM_STAGES} entries, one a stage, but '
            f'have {" and ".join(str(len(arch[key])) for key in keys)}.'
        )
    _require(
        arch['channels'][0] >= 2,
        "arch['channels']",
        "at least 2 in the first stage, as the stem's first convolution has half of it",
        arch['channels'],
    )
    return arch


def parse_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """Return the stages whose features a backbone returns, as a tuple."""
    indices = (
        tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
    )
    _require(
        len(indices) > 0
        and all(_is_integer(i, 0, NUM_STAGES - 1) for i in indices)
        and list(indices) == sorted(set(indices)),
        'out_indices',
        'an ascending subset of (0, 1, 2, 3)',
        out_indices,
    )
    return indices


def check_graph_stride(graph_stride: int) -> None:
    _require(
        _is_integer(graph_stride, 1, MOST_STRIDE),
        'graph_stride',
        f'an integer of at least 1 (and up to {MOST_STRIDE})',
        graph_stride,
    )


def check_graph_strides(graph_strides: Sequence[int], number: int) -> None:
    _require(
        isinstance(graph_strides, Sequence) and len(graph_strides) == number,
        'graph_strides',
        f'a list of {number} integers' if number else 'None, as there is no graph',
        graph_strides,
    )
    _require(
        all(_is_integer(stride, 1, MOST_STRIDE) for stride in graph_strides),
        'graph_strides',
        f'integers of at least 1 (and up to {MOST_STRIDE})',
        graph_strides,
    )


def check_frozen_stages(frozen_stages: int) -> None:
    _require(
        _is_integer(frozen_stages, -1, NUM_STAGES),
        'frozen_stages',
        f'an integer from -1 (nothing) to {NUM_STAGES} (everything)',
        frozen_stages,
    )


def check_bool(name: str, value: bool) -> None:
    _require(isinstance(value, bool), name, 'True or False', value)


def check_with_cp(with_cp: bool | str) -> None:
    # Not 1: it equals True, but would switch nothing on.
    valid = isinstance(with_cp, bool) or isinstance(with_cp, str) and with_cp == 'act'
    _require(valid, 'with_cp', "True, False or 'act'", with_cp)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Return drop-path rates of the blocks, which grow linearly from 0 to ``last``."""
    valid = isinstance(last, Real) and 0 <= last < 1
    _require(valid, 'drop_path_rate', 'in [0, 1)', last)
    return torch.linspace(0, float(last), blocks, device='cpu').tolist()


def check_layer_scale(value: float) -> None:
    valid = isinstance(value, Real) and math.isfinite(value)
    _require(valid, 'layer_scale_init_value', 'a finite number', value)


def check_layer_cfg(name: str, cfg: dict | None) -> None:
    """Check the config of a norm or activation; its registry knows the types."""
    _require(
        cfg is None or isinstance(cfg, dict) and 'type' in cfg,
        name,
        "a dict with a 'type', such as dict(type='BN') or dict(type='GELU')",
        cfg,
    )


def check_compile_cfg(compile_cfg: dict | None, with_cp: bool | str) -> None:
    _require(
        compile_cfg is None or isinstance(compile_cfg, dict),
        'compile_cfg',
        'None or a dict of arguments of torch.compile',
        compile_cfg,
    )
    if compile_cfg is not None and with_cp:
        raise UserError(
            f'compile_cfg={compile_cfg!r} and with_cp={with_cp!r}: torch.compile '
            'refuses what is recomputed here; set only one of them.'
        )


def check_triton(triton: bool) -> None:
    check_bool('triton', triton)
    if triton:
        warnings.warn(
            'triton=True is deprecated and will be removed in 0.4: the Triton graph '
            'step was removed, and the default one is used. Leave the argument out.',
            DeprecationWarning,
            stacklevel=3,
        )


def check_init_cfg(init_cfg: dict | list[dict] | None) -> None:
    cfgs = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    _require(
        init_cfg is None
        or all(isinstance(cfg, dict) and 'type' in cfg for cfg in cfgs),
        'init_cfg',
        "None, a dict with a 'type', such as dict(type='Pretrained', "
        "checkpoint='mobilevig://m'), or a list of such",
        init_cfg,
    )
