"""Folders that come with the package, and addresses without their secrets.

In the wheel, ``mobilevig_det/.mim`` holds copies of the folders ``configs`` and
``tools``, where MMEngine and MIM look for them. In a clone these are symbolic links to
the root, or, where git makes no symbolic links, small text files.

Credentials in addresses never reach a message, a file or a log: whatever shows an
address shows :func:`without_secrets` of it.

This module imports nothing slow: commands use it before they have parsed arguments.
"""

import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

# The schemes of an address, also of one that lacks a slash.
SCHEMES = re.compile(r'\s*((?:[A-Za-z][A-Za-z0-9+.-]+:[/\\]+)+)')

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


def without_secrets(path: str) -> str:
    """Return a path or an address without credentials and query, for messages.

    Example:
        >>> without_secrets('s3://KEY:SECRET@bucket/a.jpg?endpoint_override=host')
        's3://bucket/a.jpg'
    """
    return _split(path)[0]


def has_credentials(path: str) -> bool:
    """Whether an address holds a user or a password."""
    return _split(path.partition('?')[0])[1] != set()


def hide_secrets(text: str, address: str) -> str:
    """Return a message of another library without the secrets of an address."""
    shown, secrets = _split(address)
    text = text.replace(address, shown)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, '***')
    return text


def _split(path: str) -> tuple[str, set[str]]:
    """Return an address without its secrets, and these, in all spellings."""
    found = SCHEMES.match(path)
    if found is None:
        return path, set()
    rest = path[found.end() :]
    host = re.split(r'[/\\?]', rest)[0]
    user = ''
    # A secret with a slash that is not escaped has a colon before it, and no host has.
    if '@' in host or ':' in host:
        user, at, _ = (host if '@' in host else rest).rpartition('@')
        rest = rest[len(user) + len(at) :]
    rest, _, query = rest.partition('?')
    fragment = ''
    if 'http' in found[1].lower():  # names in object stores have such marks
        rest, _, fragment = rest.partition('#')
    parts = {user, *user.split(':', 1)[1:], query, fragment}
    parts |= {value for _, value in parse_qsl(query)}
    spellings = (f(part) for part in parts for f in (str, quote, unquote, _quote_all))
    return found[1] + rest, {part for part in spellings if len(part) > 2}


def _quote_all(text: str) -> str:
    return quote(text, safe='')
