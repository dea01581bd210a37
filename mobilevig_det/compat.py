"""What this package needs of the ones below it."""
import argparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_checkpoint_types() -> None:
    """Let ``torch.load(weights_only=True)`` read what checkpoints hold.

    Exactly the types that MMEngine and the authors' files put beside the
    weights; none of them runs code when it is loaded. Since torch 2.6 the
    safe mode is the default, and without this MMEngine could not read its own
    checkpoints back.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.4
        return
    core = np._core if hasattr(np, '_core') else np.core
    torch.serialization.add_safe_globals([
        argparse.Namespace, HistoryBuffer, np.ndarray, np.dtype,
        core.multiarray._reconstruct, core.multiarray.scalar,
        *(type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1'))
    ])
