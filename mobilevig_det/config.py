"""Find and read configs, and check the names of checkpoint files and devices."""

import argparse
import difflib
import os
import os.path as osp
import textwrap
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from .config_errors import known_settings, suggest
from .errors import UserError
from .paths import shipped_folder

__all__ = ['check_device', 'find_checkpoint', 'find_config', 'load_config']


def find_config(name: str) -> str:
    """Return the path of a config.

    Args:
        name (str): A path, relative to the current folder, or the name of a config of
            this package, with or without its folder and suffix.

    Returns:
        str: The path.

    Raises:
        UserError: If there is no such config.
    """
    if osp.isfile(name):
        return name
    relative = name[len('configs/') :] if name.startswith('configs/') else name
    relative = relative if relative.endswith('.py') else relative + '.py'
    root = shipped_folder('configs')
    for candidate in (root / relative, *root.glob(f'*/{relative}')):
        if candidate.is_file():
            return str(candidate)
    paths = [path.relative_to(root) for path in root.glob('[!_]*/*.py')]
    similar = suggest(Path(relative).stem, [path.stem for path in paths], 0.75)
    known = ', '.join(sorted(path.as_posix() for path in paths))
    raise UserError(
        f'There is no config {name!r}, neither in {os.getcwd()} nor among ours'
        + (f'.{similar}' if similar else f': {known}.')
    )


def load_config(name: str, cfg_options: dict | list[str] | None = None) -> Config:
    """Read a config and override some of its settings.

    Args:
        name (str): Path or name of the config, see :func:`find_config`.
        cfg_options (dict | list[str], optional): New values by the dotted names of the
            settings, or strings ``KEY=VALUE`` as in ``--cfg-options``.

    Returns:
        Config: The config.

    Raises:
        UserError: If there is no such config, if it can't be read, or if the options do
            not fit it.

    Example:
        >>> cfg = load_config('mobilevig_m_fpn_1x', {'train_dataloader.batch_size': 4})
    """
    path = find_config(name)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python code, which can raise anything
        reason = f'{type(error).__name__}: {textwrap.shorten(str(error), 300)}'
        raise UserError(f"The config {path} can't be read: {reason}") from error
    if isinstance(cfg_options, list):
        cfg_options = _parse_options(cfg_options)
    if cfg_options:
        _check_names(cfg_options, cfg)
        try:
            cfg.merge_from_dict(cfg_options)
        except (KeyError, TypeError) as error:
            reason = textwrap.shorten(str(error.args[0]), 200)
            raise UserError(f'--cfg-options do not fit {path}: {reason}') from error
    return cfg


def _parse_options(options: list[str]) -> dict:
    """Parse strings ``KEY=VALUE`` as MMEngine's ``DictAction`` does."""
    namespace = argparse.Namespace()
    try:
        DictAction([], 'options')(argparse.ArgumentParser(), namespace, options)
    except AssertionError as error:
        raise UserError(f'--cfg-options: {error}') from error
    return namespace.options


def _check_names(cfg_options: dict, cfg: Config) -> None:
    """Raise a UserError for an option that looks like a misspelled setting.

    MMEngine would add it as a new setting, which mostly has no effect.
    """
    for key in cfg_options:
        node, path = cfg._cfg_dict, ''
        for name in key.split('.'):
            if (
                isinstance(node, (list, tuple))
                and name.isdigit()
                and int(name) < len(node)
            ):
                node = node[int(name)]
            elif not isinstance(node, dict):
                break  # MMEngine reports what doesn't fit
            elif name in node:
                node = node[name]
            else:
                known = known_settings(node, path)
                if name in known:
                    break
                hint = suggest(name, known, 0.87)
                if not path and not hint:
                    hint = _suggest_nested(name, cfg)
                if hint:
                    where = path or 'the config'
                    raise UserError(
                        f'--cfg-options {key}: {where} has no {name}.{hint}'
                    )
                break
            path = f'{path}.{name}'.lstrip('.')


def _suggest_nested(name: str, cfg: Config) -> str:
    """Suggest the dotted name of a setting that was given without its path."""
    paths: dict[str, str] = {}
    nodes = [('', cfg)]
    for path, node in nodes:
        for key, value in node.items():
            paths.setdefault(key, f'{path}{key}')
            if isinstance(value, dict):
                nodes.append((f'{path}{key}.', value))
    found = difflib.get_close_matches(name, paths, 1, 0.87)
    return f' Is it {paths[found[0]]!r}?' if found else ''


def find_checkpoint(path: str) -> None:
    """Check that a local checkpoint file exists.

    Args:
        path (str): A path; addresses and ``mobilevig://`` names are not checked.

    Raises:
        UserError: If there is no such file.
    """
    if '://' not in path and not osp.isfile(path):
        raise UserError(
            f'There is no checkpoint file {path!r} (looked at {osp.abspath(path)}).'
        )


def check_device(device: str) -> str:
    """Check that torch can use a device.

    Args:
        device (str): For example 'cpu' or 'cuda:0'.

    Returns:
        str: The same device.

    Raises:
        UserError: If torch can't use it.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {device} cannot be used: {reason}') from error
    return device
