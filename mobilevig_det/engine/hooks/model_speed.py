"""Make the model of a run faster: torch.compile, and the CPU fast paths."""

import warnings
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ...deprecation import deprecated_type
from ...errors import UserError
from ..training_state import unwrapped_model


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile parts of a model, each as one graph.

    What MMDetection does after the neck depends on values and isn't compiled. Names of
    weights don't change.

    Args:
        parts (Sequence[str]): Attributes of the model; nested ones with dots.
            Defaults to ('backbone', 'neck').
        fullgraph (bool): Whether a part that isn't one graph is an error. Defaults to
            True.
        **options (Any): More arguments of ``torch.compile``, such as ``dynamic=True``
            for one graph for all sizes, or ``mode='reduce-overhead'`` for CUDA graphs,
            one for each size.

    Raises:
        UserError: When the run starts, if the model has no such part.

    Example:
        >>> custom_hooks = [dict(type='CompileHook', dynamic=True)]
    """

    def __init__(
        self,
        parts: Sequence[str] = ('backbone', 'neck'),
        fullgraph: bool = True,
        **options: Any,
    ) -> None:
        self.parts = [parts] if isinstance(parts, str) else list(parts)
        self.options = dict(options, fullgraph=fullgraph)

    def before_run(self, runner) -> None:
        """Compile the parts."""
        model = unwrapped_model(runner)
        modules = dict(model.named_modules())
        for name in self.parts:
            if name not in modules:
                there = ', '.join(name for name, _ in model.named_children())
                raise UserError(
                    f'CompileHook: the model, {type(model).__name__}, has no part '
                    f'{name!r}; it has {there}.'
                )
            modules[name].compile(**self.options)


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
        """Replace the convolutions, and log how many."""
        # Imports MMDetection's models, which not every user of a hook needs.
        from ...ops.cpu_fast_paths import apply_cpu_fast_paths, cpu_fast_paths_enabled

        if self.enabled and cpu_fast_paths_enabled(runner.cfg):
            changed = apply_cpu_fast_paths(runner.model)
            print_log(f"Convolutions by Winograd's algorithm on CPUs: {changed}.")


WinogradHook = deprecated_type('WinogradHook', CpuFastPathsHook, HOOKS)
