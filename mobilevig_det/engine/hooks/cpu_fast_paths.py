"""Hook that applies the CPU fast paths to the model of a run."""

import warnings

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ...deprecation import deprecated_type


@HOOKS.register_module()
class CpuFastPathsHook(Hook):
    """Apply the CPU fast paths to the model before a run.

    3x3 convolutions with many channels take half of the time: see
    :mod:`...ops.cpu_fast_paths`. The names of the weights stay, and so do the
    results, up to rounding. On GPUs nothing changes. The switch is the config's
    top-level key ``cpu_fast_paths``, True by default.

    Args:
        enabled (bool): False leaves the model as it is. Deprecated: set
            ``cpu_fast_paths = False`` in the config instead. Default True.
    """

    def __init__(self, enabled: bool = True) -> None:
        if not enabled:
            warnings.warn(
                'enabled=False of CpuFastPathsHook is deprecated and will be removed '
                'in 0.4; use cpu_fast_paths = False at the top level of the config.',
                DeprecationWarning,
                stacklevel=2,
            )
        self.enabled = enabled

    def before_run(self, runner) -> None:
        # Imports MMDetection's models, which not every user of a hook needs.
        from ...ops.cpu_fast_paths import apply_cpu_fast_paths, cpu_fast_paths_enabled

        if self.enabled and cpu_fast_paths_enabled(runner.cfg):
            changed = apply_cpu_fast_paths(runner.model)
            print_log(f"Convolutions by Winograd's algorithm on CPUs: {changed}.")


WinogradHook = deprecated_type('WinogradHook', CpuFastPathsHook, HOOKS)
