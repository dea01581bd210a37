"""Folders that come with the package, in a clone and in an installed package.

In the wheel, ``mobilevig_det/.mim`` holds copies of the folders ``configs`` and
``tools``, where MMEngine and MIM look for them. In a clone these are symbolic links to
the root, or, where git makes no symbolic links, small text files.

This module imports nothing slow: commands use it before they have parsed arguments.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def clone_root() -> Path | None:
    """Return the root of the clone that the package is part of, None if installed."""
    configs = _PACKAGE / '.mim' / 'configs'
    installed = configs.is_dir() and not configs.is_symlink()
    return None if installed else _PACKAGE.parent


def shipped_folder(name: str) -> Path:
    """Return one of our folders.

    Args:
        name: ``'configs'`` or ``'tools'``.
    """
    return (clone_root() or _PACKAGE / '.mim') / name
