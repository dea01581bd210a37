"""Say what is installed, on what it runs: for a bug report."""

import argparse
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

try:
    import mobilevig_det  # noqa: F401  first, to name what doesn't fit
    from mobilevig_det.versions import check_stack

    check_stack()  # again: `python -m mobilevig_det` brings us here even so
    PROBLEM = None
except Exception as error:  # whatever it is, it is what the report is for
    PROBLEM = f'{type(error).__name__}: {error}'

PACKAGES = ('mobilevig_det', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')
# Of MMEngine's list: 30 lines of compiler flags, and no fact at all.
LEFT_OUT = ('PyTorch compiling details', 'numpy_random_seed')
T = TypeVar('T')


def distributions(module: str) -> str:
    """Name and version of each distribution that installed the module:
    OpenMMLab's mmcv, mmcv-lite, OneDL's, or two of them over one another."""
    names = metadata.packages_distributions().get(module, ())
    if module == 'mmcv':  # into which ours puts mmcv/_ext.py
        names = [
            name for name in names if name not in ('mobilevig_det', 'mobilevig-det')
        ]
    found = [f'{name} {metadata.version(name)}' for name in dict.fromkeys(names)]
    return ' and '.join(found) or 'not installed'


def device() -> str:
    """What MMEngine runs on, by name."""
    import torch
    from mmengine.device import get_device

    kind = get_device()
    if kind != 'cuda':
        return f'{kind} ({platform.machine()}, {torch.get_num_threads()} threads)'
    count = torch.cuda.device_count()
    return f'cuda ({", ".join(map(torch.cuda.get_device_name, range(count)))})'


def operators() -> str:
    """Whose operators ``mmcv.ops`` calls."""
    from mobilevig_det.mmcv_ops.mmcv_ext import in_use

    return in_use()


def collected() -> dict[str, str]:
    """MMEngine's own list."""
    from mmengine.utils.dl_utils import collect_env

    return {key: v for key, v in collect_env().items() if key not in LEFT_OUT}


def asked(question: Callable[[], T]) -> T | str:
    """The answer, or why there is none."""
    try:
        return question()
    except Exception as error:
        return f'unknown ({type(error).__name__}: {error})'


def report() -> dict[str, str]:
    """Every line, by its name; whatever is broken, the others are there."""
    lines = {'problem': PROBLEM or 'none: these versions fit together'}
    lines['platform'] = platform.platform()
    lines['Python'] = sys.version.replace('\n', '')
    lines |= {name: distributions(name) for name in PACKAGES}
    # Of an editable installation, metadata has the version of its first day.
    package = sys.modules.get('mobilevig_det')
    lines['mobilevig_det'] = getattr(package, '__version__', lines['mobilevig_det'])
    lines |= {'device': asked(device), 'operators': asked(operators)}
    more = asked(collected)
    return lines | (more if isinstance(more, dict) else {'collect_env': more})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Print the versions, the devices and the operators in use, '
        'for a bug report.'
    )
    parser.parse_args(argv)
    for name, value in report().items():
        print(f'{name}: {value}')
