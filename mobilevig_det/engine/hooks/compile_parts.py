"""Parts of any detector through torch.compile."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from ...errors import UserError


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles parts of a model, each as one graph.

    What MMDetection does after the neck depends on values, and is left alone. Names
    of weights stay.

    Args:
        parts (Sequence[str]): Attributes of the model, with dots within them.
            Defaults to ('backbone', 'neck').
        fullgraph (bool): Whether a part that is not one graph is an error. Defaults
            to True.
        options (Any): More arguments of ``torch.compile``, such as ``dynamic=True``
            for one graph for all sizes, or ``mode='reduce-overhead'`` for CUDA graphs,
            one for each size.

    Raises:
        UserError: When the run starts, if the model has no such part.
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
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        modules = dict(model.named_modules())
        for name in self.parts:
            if name not in modules:
                there = ', '.join(name for name, _ in model.named_children())
                raise UserError(
                    f'CompileHook: the model, {type(model).__name__}, has no part '
                    f'{name!r}; it has {there}.'
                )
            modules[name].compile(**self.options)
