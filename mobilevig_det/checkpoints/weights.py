"""Weights by name or address: the ``mobilevig://`` scheme of MMEngine.

=============================  =============================================
``mobilevig://m``              the authors' file for that name (see below)
``mobilevig:///some/file``     a file
``mobilevig://https://…``      a file to download
=============================  =============================================

A name is looked up in the folder ``MOBILEVIG_WEIGHTS`` (an environment
variable; not looked at if unset), then among torch hub's downloads, then
downloaded to there.
"""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from mmengine.dist import barrier, is_distributed
from mmengine.runner import CheckpointLoader
from torch import hub
from tqdm import tqdm

from ..errors import UserError
from .published import PAGES, PUBLISHED, Published
from .reading import averaged, read_checkpoint

InitCfg = dict | list  # of dicts

SCHEME = 'mobilevig://'
REPOSITORY = PAGES + 'MobileViG/resolve/main/'  # of MobileViG itself
WITHOUT = 'To start from random weights, set model.backbone.init_cfg=None.'


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_mobilevig(filename: str, map_location: str | None = None) -> dict:
    """Load a checkpoint by name, path or address, averaged weights first.

    Args:
        filename (str): See the top of this module; the scheme in front may
            be left out.
        map_location (str, optional): Same as :func:`torch.load`.

    Returns:
        dict: The checkpoint, its weights under ``state_dict``.

    Raises:
        UserError: If the file is not to be found, not to be downloaded, or
            not a checkpoint.
    """
    path = find_file(filename)
    return averaged(read_checkpoint(path, map_location), str(path))


def find_file(filename: str) -> Path:
    """Path of a checkpoint on this machine, downloaded if need be.

    Args:
        filename (str): As for :func:`load_from_mobilevig`.

    Raises:
        UserError: If the name is unknown, or the download fails.
    """
    place = filename[len(SCHEME) :] if filename.startswith(SCHEME) else filename
    if filename.startswith(SCHEME) and '/' not in place and '\\' not in place:
        return _find(place)
    if place.startswith(('http://', 'https://')):
        return _download(place)
    return Path(place)


def through_scheme(init_cfg: InitCfg) -> InitCfg:
    """The init_cfg, with the loader above for a file that is given bare.

    MMEngine's own would take the raw weights out of it, and say nothing.
    """
    if not isinstance(init_cfg, dict):
        return [through_scheme(cfg) for cfg in init_cfg]
    if 'checkpoint' not in init_cfg:
        return init_cfg
    place = str(init_cfg['checkpoint'])
    if '://' not in place:
        place = SCHEME + os.path.abspath(os.path.expanduser(place))
    elif place.startswith(('http://', 'https://')):
        place = SCHEME + place
    return dict(init_cfg, checkpoint=place)


def load_all_safely() -> None:
    """Have plain paths and addresses read by the loader above as well.

    For our own tools: what they load is safe and has our messages. In
    someone else's program MMEngine's loaders stay as they are.
    """
    CheckpointLoader.register_scheme(
        ['', 'http://', 'https://'], load_from_mobilevig, force=True
    )


def _find(name: str) -> Path:
    if name.lower() not in PUBLISHED:
        raise UserError(
            f'{SCHEME}{name} is unknown: the names are '
            f'{", ".join(PUBLISHED)}; a file is {SCHEME}/path/to/file, an '
            f'address {SCHEME}https://….'
        )
    published = PUBLISHED[name.lower()]
    if published.path is None:
        raise UserError(
            f'The name of the published file for {SCHEME}{name} is not '
            f'known: give the file yourself: {SCHEME}/path/to/file. The '
            f"authors' files are at {PAGES}MobileViG. {WITHOUT}"
        )
    folder = os.environ.get('MOBILEVIG_WEIGHTS')
    if folder:
        if not os.path.isdir(folder):
            raise UserError(
                f'The folder that MOBILEVIG_WEIGHTS names does not exist: {folder!r}.'
            )
        path = Path(folder, os.path.basename(published.path))
        if path.is_file():
            _verify(path, published.sha256)
            return path
    if published.repository is None:
        raise UserError(
            f'The address of the published file for {SCHEME}{name}, {published.path}, '
            f'is not known: look for it below {PAGES}, put it into the folder that '
            f'MOBILEVIG_WEIGHTS names, or give it as {SCHEME}/path/to/file. {WITHOUT}'
        )
    ours = published.page == Published(None).page
    repository = REPOSITORY if ours else published.repository
    return _download(repository + published.path, published.sha256)


def _download(url: str, sha256: str | None = None) -> Path:
    """Path of a file in torch hub's cache, downloaded if it is not there."""
    name = os.path.basename(url.partition('?')[0])
    if not url.startswith((REPOSITORY, PAGES)):
        # Many files in the world are called model_best.pth.tar.
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}'
    path = Path(hub.get_dir(), 'checkpoints', name)
    # One process a machine; the others of a launcher wait for it. All of
    # them come to the barrier, whatever each one saw on the disk.
    try:
        first = os.environ.get('LOCAL_RANK', '0') == '0'
        if (first or not is_distributed()) and not path.is_file():
            _fetch(url, path, sha256)
    finally:
        barrier()
    if not path.is_file():
        raise UserError(
            f'{path} is not there: its download in the first '
            'process of this machine failed, see there.'
        )
    _verify(path, sha256)
    return path


def _fetch(url: str, path: Path, sha256: str | None) -> None:
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, part.open('wb') as file:
            size = int(answer.headers.get('Content-Length') or 0)
            with tqdm(
                desc=f'Downloading {path.name}',
                total=size or None,
                unit='B',
                unit_scale=True,
            ) as progress:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    progress.update(len(chunk))
        if part.stat().st_size < size:
            raise OSError(
                f'the connection broke off after {part.stat().st_size} of {size} bytes'
            )
        _verify(part, sha256)
        read_checkpoint(part, 'meta')  # an error page, say, is not kept
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f'{url} could not be downloaded: {error}. Try again, or fetch '
            f'the file elsewhere, save it as {path} or anywhere else and '
            f'give it as {SCHEME}/path/to/file. {WITHOUT}'
        ) from error
    except UserError as error:
        raise UserError(f'{url} gave no checkpoint: {error}') from error
    finally:
        part.unlink(missing_ok=True)


def _verify(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    if found.hexdigest() != sha256:
        raise UserError(
            f'{path} is not the published file, or was damaged: its SHA-256 '
            f'is {found.hexdigest()}, and should be {sha256}. Delete it, and '
            'it is downloaded again.'
        )
