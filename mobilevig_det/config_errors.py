"""Explain settings of a config that MMEngine or a class rejects."""

import difflib
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from mmengine import registry as registries
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

_BUILD = {'mmengine.registry.build_functions', 'mmengine.runner.runner'}
# Functions that a class calls while it reads its settings.
_BUILDERS = re.compile(
    r'__(init|getitem|missing)__|_?build\w*|_?init\w*|from_cfg|get_instance|<\w+>'
)
_UNEXPECTED = re.compile(
    r"(\w+)(?:\.__init__)?\(\) got an unexpected .*argument '(\w+)'"
)
_REFUSALS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
_ROOTS = [r for r in vars(registries).values() if isinstance(r, Registry)]
_ADVICE = 'Check that setting, also in --cfg-options; it was rejected at'


def suggest(name: str, known: Iterable[Any], cutoff: float = 0.6) -> str:
    """Suggest the known name that is most similar to a misspelled one.

    Args:
        name (str): The misspelled name.
        known (Iterable): Valid names.
        cutoff (float): Least similarity, from 0 to 1. Defaults to 0.6.

    Returns:
        str: For example `` Is it 'batch_size'?``, or '' if no name is similar.
    """
    names = {str(other).lower(): str(other) for other in known if str(other) != name}
    found = difflib.get_close_matches(name.lower(), names, 1, cutoff)
    return f' Is it {names[found[0]]!r}?' if found else ''


def parameters_of(builder: Callable) -> set[str]:
    """Return the names of the arguments that a class or function takes.

    Arguments of base classes are included if ``**kwargs`` passes them on.

    Args:
        builder (Callable): The class or function.
    """
    names: set[str] = set()
    for cls in inspect.getmro(builder) if inspect.isclass(builder) else [builder]:
        if inspect.isclass(cls) and '__init__' not in vars(cls):
            continue
        try:
            parameters = inspect.signature(cls).parameters.values()
        except (TypeError, ValueError):  # written in C
            break
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {'self', 'args'}


def known_settings(node: dict, path: str) -> set[str]:
    """Return the names of the settings that a dict of a config can have.

    Args:
        node (dict): The dict.
        path (str): Its dotted name in the config; '' for the config itself.

    Returns:
        set[str]: The names.
    """
    if not path:  # MMDetection's tools and test-time augmentation read the extra ones
        extra = {'tta_pipeline', 'tta_model', 'auto_scale_lr', 'runner_type'}
        return {*node, *extra, *parameters_of(Runner)}
    known = {*node, 'type', '_scope_', '_delete_'}
    if path.endswith('_dataloader'):
        known |= parameters_of(DataLoader) | {'num_batch_per_epoch'}
    name = node.get('type')
    if isinstance(name, str):
        for builder in filter(None, (root.get(name) for root in _ROOTS)):
            known |= parameters_of(builder)
    elif callable(name):
        known |= parameters_of(name)
    return known


def explain_config_error(error: BaseException) -> str | None:
    """Explain a setting that a class rejects, or a class that no registry contains.

    Args:
        error (BaseException): The error, with its traceback.

    Returns:
        str | None: The message, or None if the error has another cause.
    """
    calls = list(traceback.walk_tb(error.__traceback__))
    frames = [frame for frame, _ in calls]
    built = [i for i, frame in enumerate(frames) if _is_builder(frame)]
    if not built:
        return _explain_channels(error, frames)
    inner = [frame.f_code.co_name for frame in frames[built[-1] + 1 :]]
    if not isinstance(error, _REFUSALS) or not all(map(_BUILDERS.fullmatch, inner)):
        return None
    last, line = calls[-1]
    if isinstance(error, KeyError) and 'registry' in last.f_locals:
        reason = str(error.args[0]).partition('. ')[0]
        hint = suggest(
            str(last.f_locals.get('obj_type')), _names(last.f_locals['registry'])
        )
        return (
            f'The config does not fit: {reason}.{hint} Check the spelling, also in '
            '--cfg-options, and that custom_imports names its module.'
        )
    file = last.f_code.co_filename
    reason = str(error) or linecache.getline(file, line).strip()
    if isinstance(error, KeyError):
        reason = f'{reason} is missing'
    hint = ''
    if found := _UNEXPECTED.search(reason):
        builder = _called(frames, built[-1], found[1])
        known = parameters_of(builder) if builder else ()
        hint = suggest(found[2], known) or f' It takes {", ".join(sorted(known))}.'
    return f'The config does not fit: {reason}.{hint} {_ADVICE} {file}:{line}.'


def _is_builder(frame: FrameType) -> bool:
    name = frame.f_code.co_name
    return frame.f_globals.get('__name__') in _BUILD and name.startswith(
        ('build', 'from_cfg')
    )


def _called(frames: list[FrameType], build: int, name: str) -> Callable | None:
    """Return the class or function of a name that the last frame called."""
    last = frames[-1]
    built = frames[build].f_locals.get('obj_cls')
    if len(frames) > build + 1 and built is not None:
        return built  # the class passed the argument on to a base class
    found = [*last.f_locals.values(), last.f_globals.get(name)]
    return next((x for x in found if getattr(x, '__name__', None) == name), None)


def _names(registry: Registry) -> Iterator[str]:
    """Yield the names in a registry, its parents, and the children of its root."""
    while registry.parent is not None:
        yield from registry.module_dict
        registry = registry.parent
    yield from registry.module_dict
    for child in registry.children.values():
        yield from child.module_dict


def _explain_channels(error: BaseException, frames: list[FrameType]) -> str | None:
    """Explain a layer that gets feature maps with a wrong number of channels."""
    if not isinstance(error, AssertionError) and 'channels' not in str(error):
        return None
    calls = [frame for frame in frames if frame.f_code.co_name == 'forward']
    modules = [frame.f_locals.get('self') for frame in calls]
    model = next((m for m in modules if hasattr(m, 'backbone')), None)
    if not isinstance(model, nn.Module):
        return None
    names = {id(module): name for name, module in model.named_modules()}
    for frame, module in zip(calls, modules):
        wanted = getattr(module, 'in_channels', None)
        if wanted is None or id(module) not in names:
            continue
        given = frame.f_locals.get(frame.f_code.co_varnames[1])
        maps = [given] if isinstance(given, Tensor) else given or ()
        channels = [x.shape[1] for x in maps if isinstance(x, Tensor) and x.ndim == 4]
        wanted = [wanted] * len(channels) if isinstance(wanted, int) else list(wanted)
        if channels and channels != wanted:
            name = f'model.{names[id(module)]}'
            return (
                f'The config does not fit: {name} ({type(module).__name__}) gets '
                f'feature maps of {channels} channels, but its in_channels are '
                f'{wanted}. Set {name}.in_channels to the former.'
            )
    return None
