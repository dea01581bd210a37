"""torch.compile for parts of a detector."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

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
