"""The states of all random generators that a training draws from."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def get_random_states() -> dict:
    """States of this process's generators, of types that a checkpoint may hold.

    Returns:
        dict: Of ``python``, ``numpy``, ``torch`` (the CPU's) and ``cuda`` (a
        list, one a GPU that this process sees; empty without).
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return dict(
        python=random.getstate(),
        numpy=(str(name), np.asarray(keys).tolist(), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    )


def set_random_states(states: dict) -> None:
    """Go on where :func:`get_random_states` was called."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    # Where there are other GPUs now, the ones that are left go on.
    count = torch.cuda.device_count() if states['cuda'] else 0
    for device, state in enumerate(states['cuda'][:count]):
        torch.cuda.set_rng_state(state.cpu(), device)


def seed_of(*parts) -> int:
    """64 bits that depend on all the parts, the same on every machine."""
    text = repr(tuple(_plain(part) for part in parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')


def _plain(part):
    """Indices print alike, whether they are Python's, NumPy's or torch's."""
    if isinstance(part, (list, tuple)):
        return tuple(_plain(item) for item in part)
    return int(part) if hasattr(part, '__index__') else part


@contextmanager
def own_stream(*parts) -> Iterator[None]:
    """Inside, python, numpy and torch (CPU) draw from a stream that depends on
    the parts alone; outside, they go on as if nothing had been drawn."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed, which would seed the GPUs as well.
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


@contextmanager
def stream_kept() -> Iterator[None]:
    """Afterwards all generators go on as if nothing had been drawn inside."""
    states = get_random_states()
    try:
        yield
    finally:
        set_random_states(states)
