"""Log losses and metrics without ending the training when the disk fails."""

import logging
import os
from collections.abc import Callable

from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from ..deprecation import deprecated_type


@VISBACKENDS.register_module()
class FaultTolerantLocalVisBackend(LocalVisBackend):
    """LocalVisBackend that skips points that can't be written.

    A full disk doesn't end the training: the first point that can't be written is
    logged as an error, and later points are tried again.

    Args:
        *args: See :class:`mmengine.visualization.LocalVisBackend`.
        **kwargs: Likewise.
    """

    _reported = False

    def add_scalar(self, *args, **kwargs) -> None:
        """Append one value, or skip it if it can't be written."""
        self._write(super().add_scalar, *args, **kwargs)

    def add_scalars(self, *args, **kwargs) -> None:
        """Append several values, or skip them if they can't be written."""
        self._write(super().add_scalars, *args, **kwargs)

    def _write(self, add: Callable, *args, **kwargs) -> None:
        try:
            path = self.experiment._scalar_save_file  # experiment makes its folder
            size = os.path.getsize(path) if os.path.exists(path) else 0
            try:
                add(*args, **kwargs)
            except OSError:
                os.truncate(path, size)  # an incomplete line would break the next
                raise
        except OSError as error:
            if not self._reported:
                print_log(
                    f'Losses and metrics cannot be written ({error}): points are '
                    'skipped until they can. The training continues.',
                    'current',
                    level=logging.ERROR,
                )
            self._reported = True


SurvivingLocalVisBackend = deprecated_type(
    'SurvivingLocalVisBackend', FaultTolerantLocalVisBackend, VISBACKENDS
)
