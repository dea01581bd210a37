"""What a backbone may be built with: a UserError for all else."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from ..errors import UserError

NUM_STAGES = 4
# Far beyond any network; more is a slip, on which torch would run out of memory.
MOST = dict(channels=1 << 16, blocks=1 << 10, graph_blocks=1 << 10)
MOST_STRIDE = 1 << 16


def parse_arch(arch: str | dict, settings: Mapping[str, dict]) -> dict:
    """The stages' ``channels``, ``blocks`` and, of MobileViG's siblings,
    ``graph_blocks``, given as such or by a name.

    Args:
        arch (str | dict): A name of ``settings``, in any case, or a dict
            like those there.
        settings (Mapping[str, dict]): The backbone's sizes.
    """
    keys = list(next(iter(settings.values())))
    named = f'{", ".join(map(repr, keys[:-1]))} and {keys[-1]!r}'
    if isinstance(arch, str):
        if arch.lower() not in settings:
            raise UserError(
                f'Unknown arch {arch!r}: choose one of '
                f'{", ".join(map(repr, settings))}, or give a dict with {named}.'
            )
        return settings[arch.lower()]
    if not isinstance(arch, dict) or set(arch) != set(keys):
        raise UserError(
            f'arch must be one of {", ".join(map(repr, settings))} or a dict with '
            f'exactly {named}, but got {arch!r}.'
        )
    for name, value in arch.items():
        least = int(name != 'graph_blocks')  # stages without are theirs, too
        if not isinstance(value, Sequence) or not all(
            _is_integer(v) and least <= v <= MOST[name] for v in value
        ):
            raise UserError(
                f'arch[{name!r}] must be a list of '
                f'{"positive integers" if least else "integers of at least 0"} '
                f'up to {MOST[name]}, but got {value!r}.'
            )
    if any(len(value) != NUM_STAGES for value in arch.values()):
        raise UserError(
            f'{named} of arch must all have {NUM_STAGES} entries, one a stage, but '
            f'have {" and ".join(str(len(arch[key])) for key in keys)}.'
        )
    if arch['channels'][0] < 2:
        raise UserError(
            "arch['channels'] must begin with at least 2, as the stem's first "
            f'convolution has half of them, but got {arch["channels"]!r}.'
        )
    return arch


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """The stages to return, as a tuple."""
    indices = (
        tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
    )
    if (
        not indices
        or any(not _is_integer(i) or i not in range(NUM_STAGES) for i in indices)
        or list(indices) != sorted(set(indices))
    ):
        raise UserError(
            'out_indices must be an ascending subset of (0, 1, 2, 3), '
            f'but got {out_indices!r}.'
        )
    return indices


def check_graph_stride(graph_stride: int) -> None:
    if not _is_integer(graph_stride) or not 0 < graph_stride <= MOST_STRIDE:
        raise UserError(
            'graph_stride must be an integer of at least 1 (and up to '
            f'{MOST_STRIDE}), but got {graph_stride!r}.'
        )


def check_graph_strides(graph_strides: Sequence[int], number: int) -> None:
    if not isinstance(graph_strides, Sequence) or len(graph_strides) != number:
        raise UserError(
            f'graph_strides must be a list of {number} integers, but got '
            f'{graph_strides!r}.'
            if number
            else f'graph_strides must be None, as there is no graph, but is '
            f'{graph_strides!r}.'
        )
    for stride in graph_strides:
        if not _is_integer(stride) or not 0 < stride <= MOST_STRIDE:
            raise UserError(
                'graph_strides must be integers of at least 1 (and up to '
                f'{MOST_STRIDE}), but are {graph_strides!r}.'
            )


def check_frozen_stages(frozen_stages: int) -> None:
    if not _is_integer(frozen_stages) or frozen_stages not in range(-1, NUM_STAGES + 1):
        raise UserError(
            'frozen_stages must be an integer from -1 '
            f'(nothing) to {NUM_STAGES} (everything), but got '
            f'{frozen_stages!r}.'
        )


def check_with_cp(with_cp: bool | str) -> None:
    # Not 1: it equals True, and would switch nothing on.
    if not (isinstance(with_cp, bool) or isinstance(with_cp, str) and with_cp == 'act'):
        raise UserError(f"with_cp must be True, False or 'act', but got {with_cp!r}.")


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Rates of the blocks, which grow linearly from 0 to that of the last."""
    if not isinstance(last, Real) or not 0 <= last < 1:
        raise UserError(f'drop_path_rate must be in [0, 1), but got {last!r}.')
    return torch.linspace(0, float(last), blocks, device='cpu').tolist()


def check_layer_scale(value: float) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise UserError(
            f'layer_scale_init_value must be a finite number, but got {value!r}.'
        )


def check_norm_eval(norm_eval: bool) -> None:
    if not isinstance(norm_eval, bool):
        raise UserError(f'norm_eval must be True or False, but got {norm_eval!r}.')


def check_layer_cfg(name: str, cfg: dict | None) -> None:
    """Of norms and activations: their registry says which types there are."""
    if cfg is not None and not (isinstance(cfg, dict) and 'type' in cfg):
        raise UserError(
            f"{name} must be a dict with a 'type', such as dict(type='BN') or "
            f"dict(type='GELU'), but got {cfg!r}."
        )


def check_compile_cfg(compile_cfg: dict | None, with_cp: bool | str) -> None:
    if compile_cfg is not None and not isinstance(compile_cfg, dict):
        raise UserError(
            'compile_cfg must be None or a dict of arguments of torch.compile, but '
            f'got {compile_cfg!r}.'
        )
    if compile_cfg is not None and with_cp:
        raise UserError(
            f'compile_cfg={compile_cfg!r} and with_cp={with_cp!r}: torch.compile '
            'refuses what is recomputed here; set one of them only.'
        )


def check_triton(triton: bool) -> None:
    if not isinstance(triton, bool):
        raise UserError(f'triton must be True or False, but got {triton!r}.')
    if triton:
        warnings.warn(
            'triton=True is deprecated and will be removed in 0.4: the Triton graph '
            'step was removed, and the default one is used. Leave the argument out.',
            DeprecationWarning,
            stacklevel=3,
        )


def check_init_cfg(init_cfg: dict | list[dict] | None) -> None:
    cfgs = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    if init_cfg is not None and not all(
        isinstance(cfg, dict) and 'type' in cfg for cfg in cfgs
    ):
        raise UserError(
            "init_cfg must be None, a dict with a 'type', such as "
            "dict(type='Pretrained', checkpoint='mobilevig://m'), or a list of "
            f'such, but got {init_cfg!r}.'
        )
