"""What the command-line tools share: configs by name, errors in one line."""
import functools
import os
import sys
from pathlib import Path
from typing import Callable, Optional

from mmengine.config import Config

from .errors import UserError

# In a clone; an installed package carries the same folder under .mim.
CONFIG_ROOTS = (Path(__file__).parents[1] / 'configs',
                Path(__file__).parent / '.mim' / 'configs')


def find_config(name: str) -> str:
    """Path of a config given as a path (from the current folder) or by the
    name of one of ours, with or without folders and suffix.

    Raises:
        UserError: If there is no such config.
    """
    if os.path.isfile(name):
        return name
    relative = name[len('configs/'):] if name.startswith('configs/') else name
    relative = relative if relative.endswith('.py') else relative + '.py'
    for root in CONFIG_ROOTS:
        for candidate in (root / relative, *root.glob(f'*/{relative}')):
            if candidate.is_file():
                return str(candidate)
    known = sorted(path.relative_to(root).as_posix()
                   for root in CONFIG_ROOTS
                   for path in root.glob('[!_]*/*.py'))  # yapf: disable
    raise UserError(f'There is no config {name!r}, neither from '
                    f'{os.getcwd()} nor among ours: {", ".join(known)}.')


def load_config(name: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config (see :func:`find_config`) and change what was asked."""
    cfg = Config.fromfile(find_config(name))
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    return cfg


def command(main: Callable) -> Callable:
    """Decorate a tool's main: user errors end it with one message.

    Also makes every ``torch.load`` of the process a safe one, because some
    versions of MMEngine ask for the unsafe mode.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        try:
            return main(*args, **kwargs)
        except UserError as error:
            sys.exit(f'{Path(sys.argv[0]).name}: {error}')

    return wrapper
