"""Print the versions, the devices and the operators in use, for a bug report."""

import argparse
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

from .. import __version__
from .arguments import make_parser

PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')
# Of MMEngine's list: 30 lines of compiler flags, and a setting that is never there.
LEFT_OUT = ('PyTorch compiling details', 'numpy_random_seed')
T = TypeVar('T')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return make_parser(__doc__).parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    It is not decorated with ``command``, as it reports what the import raises.
    """
    parse_args(argv)
    for name, value in report().items():
        print(f'{name}: {value}')


def report() -> dict[str, str]:
    """Return the lines by name. Those that can't be found out say why."""
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
    """Return why the package can't be used, or None."""
    try:
        from .. import registration  # noqa: F401
    except Exception as error:  # any error is what the report is for
        return f'{type(error).__name__}: {error}'
    return None


def distributions(module: str) -> str:
    """Return names and versions of the distributions that installed a module.

    Several provide ``mmcv``: OpenMMLab's mmcv and mmcv-lite, OneDL's, or two of them.
    """
    names = metadata.packages_distributions().get(module, ())
    # Our distribution is not one of mmcv's: it only adds mmcv/_ext.py.
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
    """Return whose operators ``mmcv.ops`` calls."""
    from ..mmcv_ops.mmcv_ext import in_use

    return in_use()


def collect_env() -> dict[str, str]:
    """Return MMEngine's own list."""
    from mmengine.utils.dl_utils import collect_env

    return {key: v for key, v in collect_env().items() if key not in LEFT_OUT}


def _ask(question: Callable[[], T]) -> T | str:
    """Return the answer, or why there is none."""
    try:
        return question()
    except Exception as error:
        return f'unknown ({type(error).__name__}: {error})'
