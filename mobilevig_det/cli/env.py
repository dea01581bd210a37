"""Print the versions, devices and operators in use, for a bug report."""

import argparse
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

from .. import __version__
from .arguments import make_parser

PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')
# Omitted from MMEngine's list: 30 lines of compiler flags, and a setting that is never
# set here.
LEFT_OUT = ('PyTorch compiling details', 'numpy_random_seed')
T = TypeVar('T')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    return make_parser(__doc__).parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Unlike other commands, it is not decorated with ``command``, because it reports the
    errors that importing the package raises.

    Args:
        argv (list[str], optional): Arguments; by default those of the program.
    """
    parse_args(argv)
    for name, value in report().items():
        print(f'{name}: {value}')


def report() -> dict[str, str]:
    """Return the lines of the report by name; an unknown value says why."""
    lines = {
        'problem': problem() or 'none: these versions fit together',
        'platform': platform.platform(),
        'Python': sys.version.replace('\n', ''),
        'mobilevig_det': __version__,
    }
    lines |= {name: distributions(name) for name in PACKAGES}
    lines |= {'device': _ask(device), 'operators': _ask(operators)}
    collected = _ask(collect_env)
    return lines | (
        collected if isinstance(collected, dict) else {'collect_env': collected}
    )


def problem() -> str | None:
    """Return the error that prevents the package from being used, or None."""
    try:
        from .. import registration  # noqa: F401
    except Exception as error:  # the report must show any error
        return f'{type(error).__name__}: {error}'
    return None


def distributions(module: str) -> str:
    """Return names and versions of the distributions that installed a module.

    ``mmcv``, for example, comes from OpenMMLab's mmcv or mmcv-lite, from onedl-mmcv,
    or, by mistake, from two of them.

    Args:
        module (str): Name of the module.
    """
    names = metadata.packages_distributions().get(module, ())
    # Our own distribution is listed only because it adds mmcv/_ext.py.
    others = [n for n in names if n not in ('mobilevig_det', 'mobilevig-det')]
    found = [f'{name} {metadata.version(name)}' for name in dict.fromkeys(others)]
    return ' and '.join(found) or 'not installed'


def device() -> str:
    """Return the kind and name of the device that MMEngine uses."""
    import torch
    from mmengine.device import get_device

    kind = get_device()
    if kind != 'cuda':
        return f'{kind} ({platform.machine()}, {torch.get_num_threads()} threads)'
    count = torch.cuda.device_count()
    return f'cuda ({", ".join(map(torch.cuda.get_device_name, range(count)))})'


def operators() -> str:
    """Return which implementation of the operators ``mmcv.ops`` uses."""
    from ..mmcv_ops.mmcv_ext import in_use

    return in_use()


def collect_env() -> dict[str, str]:
    """Return MMEngine's description of the environment."""
    from mmengine.utils.dl_utils import collect_env

    return {key: v for key, v in collect_env().items() if key not in LEFT_OUT}


def _ask(question: Callable[[], T]) -> T | str:
    """Return the result of a function, or the reason why it failed."""
    try:
        return question()
    except Exception as error:
        return f'unknown ({type(error).__name__}: {error})'
