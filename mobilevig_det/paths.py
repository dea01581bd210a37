"""Find the folders of the package, and remove credentials from addresses.

In the wheel, ``mobilevig_det/.mim`` contains copies of the folders ``configs`` and
``tools``, where MMEngine and MIM look for them. In a clone, these are symbolic links to
folders of the root, or small text files if git does not create symbolic links.

Credentials in addresses must never appear in a message, a file or a log. Code that
shows an address therefore shows the result of :func:`without_secrets`.

Commands use this module before they have parsed their arguments, so it must not import
slow libraries.
"""

import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

# Schemes of an address, even if a slash after them is missing.
SCHEMES = re.compile(r'\s*((?:[A-Za-z][A-Za-z0-9+.-]+:[/\\]+)+)')

_PACKAGE = Path(__file__).parent


def clone_root() -> Path | None:
    """Return the root of the clone that contains the package, or None if installed."""
    configs = _PACKAGE / '.mim' / 'configs'
    installed = configs.is_dir() and not configs.is_symlink()
    return None if installed else _PACKAGE.parent


def shipped_folder(name: str) -> Path:
    """Return a folder that is shipped with the package.

    Args:
        name (str): 'configs' or 'tools'.
    """
    return (clone_root() or _PACKAGE / '.mim') / name


def without_secrets(path: str) -> str:
    """Return a path or an address without credentials and query, for messages.

    Args:
        path (str): The path, which is returned unchanged, or the address.

    Example:
        >>> without_secrets('s3://KEY:SECRET@bucket/a.jpg?endpoint_override=host')
        's3://bucket/a.jpg'
    """
    return _split(path)[0]


def has_credentials(path: str) -> bool:
    """Return whether an address contains a user or a password."""
    return _split(path.partition('?')[0])[1] != set()


def hide_secrets(text: str, address: str) -> str:
    """Remove the secrets of an address from a message of another library.

    Args:
        text (str): The message.
        address (str): The address, with its secrets.

    Returns:
        str: The message with the plain address, and ``***`` for each secret.
    """
    shown, secrets = _split(address)
    text = text.replace(address, shown)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, '***')
    return text


def _split(path: str) -> tuple[str, set[str]]:
    """Split an address into one without secrets, and the secrets in all spellings."""
    found = SCHEMES.match(path)
    if found is None:
        return path, set()
    rest = path[found.end() :]
    host = re.split(r'[/\\?]', rest)[0]
    user = ''
    # If a secret contains an unescaped slash, a colon precedes it, unlike in a host.
    if '@' in host or ':' in host:
        user, at, _ = (host if '@' in host else rest).rpartition('@')
        rest = rest[len(user) + len(at) :]
    rest, _, query = rest.partition('?')
    fragment = ''
    if 'http' in found[1].lower():  # in object stores, # is part of the name
        rest, _, fragment = rest.partition('#')
    # Other libraries take a slash in a password for the end of the host.
    parts = {user, *re.split(r'[:/\\]', user)[1:], *user.split(':', 1)[1:]}
    parts |= {query, fragment}
    parts |= {value for _, value in parse_qsl(query)}
    spellings = (f(part) for part in parts for f in (str, quote, unquote, _quote_all))
    return found[1] + rest, {part for part in spellings if len(part) > 2}


def _quote_all(text: str) -> str:
    return quote(text, safe='')
