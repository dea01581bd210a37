"""What a backbone may be built with: a UserError for all else."""

from collections.abc import Mapping, Sequence

import torch

from ..errors import UserError

NUM_STAGES = 4


def parse_arch(arch: str | dict, settings: Mapping[str, dict]) -> dict:
    """The stages' ``channels`` and ``blocks``, given as such or by a name.

    Args:
        arch (str | dict): A name of ``settings``, in any case, or a dict
            like those there.
        settings (Mapping[str, dict]): The backbone's sizes.
    """
    if isinstance(arch, str):
        if arch.lower() not in settings:
            raise UserError(
                f'Unknown arch {arch!r}: choose one of '
                f'{", ".join(map(repr, settings))}, or give a '
                "dict with 'channels' and 'blocks'."
            )
        return settings[arch.lower()]
    if not isinstance(arch, dict) or set(arch) != {'channels', 'blocks'}:
        raise UserError(
            f'arch must be one of {", ".join(map(repr, settings))} or a dict with '
            f"exactly 'channels' and 'blocks', but got {arch!r}."
        )
    channels, blocks = arch['channels'], arch['blocks']
    for name, value in arch.items():
        if not isinstance(value, Sequence) or not all(
            isinstance(v, int) and v > 0 for v in value
        ):
            raise UserError(
                f'arch[{name!r}] must be a list of positive '
                f'integers, but got {value!r}.'
            )
    if not len(channels) == len(blocks) == NUM_STAGES:
        raise UserError(
            f"arch['channels'] and arch['blocks'] must both have "
            f'{NUM_STAGES} entries, one a stage, but have '
            f'{len(channels)} and {len(blocks)}.'
        )
    return arch


def parse_out_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
    """The stages to return, as a tuple."""
    indices = (
        tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
    )
    if (
        not indices
        or any(i not in range(NUM_STAGES) for i in indices)
        or list(indices) != sorted(set(indices))
    ):
        raise UserError(
            'out_indices must be an ascending subset of (0, 1, 2, 3), '
            f'but got {out_indices!r}.'
        )
    return indices


def check_graph_stride(graph_stride: int) -> None:
    if not isinstance(graph_stride, int) or graph_stride < 1:
        raise UserError(
            f'graph_stride must be an integer of at least 1, but got {graph_stride!r}.'
        )


def check_frozen_stages(frozen_stages: int) -> None:
    if frozen_stages not in range(-1, NUM_STAGES + 1):
        raise UserError(
            'frozen_stages must be an integer from -1 '
            f'(nothing) to {NUM_STAGES} (everything), but got '
            f'{frozen_stages!r}.'
        )


def check_with_cp(with_cp: bool | str) -> None:
    if with_cp not in (False, True, 'act'):
        raise UserError(f"with_cp must be True, False or 'act', but got {with_cp!r}.")


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Rates of the blocks, which grow linearly from 0 to that of the last."""
    if not 0 <= last < 1:
        raise UserError(f'drop_path_rate must be in [0, 1), but got {last!r}.')
    return torch.linspace(0, last, blocks).tolist()
