"""The curves of losses and metrics, which are worth less than the training."""

import logging
import os
from collections.abc import Callable

from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend


@VISBACKENDS.register_module()
class SurvivingLocalVisBackend(LocalVisBackend):
    """MMEngine's LocalVisBackend, whose points are left out while the disk fails.

    A disk that is full ends no training: the first point that cannot be written is
    one message, and the next are tried.

    Args:
        As LocalVisBackend's.
    """

    _said = False

    def add_scalar(self, *args, **kwargs) -> None:
        """Append one value, where that is possible."""
        self._try(super().add_scalar, *args, **kwargs)

    def add_scalars(self, *args, **kwargs) -> None:
        """Append several values, where that is possible."""
        self._try(super().add_scalars, *args, **kwargs)

    def _try(self, add: Callable, *args, **kwargs) -> None:
        try:
            path = self.experiment._scalar_save_file  # experiment makes its folder
            size = os.path.getsize(path) if os.path.exists(path) else 0
            try:
                add(*args, **kwargs)
            except OSError:
                os.truncate(path, size)  # no half of a line in the middle
                raise
        except OSError as error:
            if not self._said:
                print_log(
                    f'The curves cannot be written ({error}): points are left out '
                    'until they can. The training goes on.',
                    'current',
                    level=logging.ERROR,
                )
            self._said = True
