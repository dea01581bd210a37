"""The ``mobilevig://`` scheme of MMEngine: find weights by name, path or address.

=============================  ===================================================
``mobilevig://m``              the file that the authors published (see PUBLISHED)
``mobilevig:///some/file``     a local file
``mobilevig://https://…``      a file to download
=============================  ===================================================

A published file is looked up in the folder that the environment variable
``MOBILEVIG_WEIGHTS`` names, if it is set, then in torch hub's cache. If neither has it,
it is downloaded to the cache.
"""

import base64
import hashlib
import http.client
import os
import re
import string
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

from mmengine.dist import barrier, is_distributed
from mmengine.runner import CheckpointLoader
from torch import hub
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write
from ..paths import hide_secrets, without_secrets
from .reading import prefer_averaged, read_checkpoint

InitCfg = dict | list  # one config, or a list of configs

SCHEME = 'mobilevig://'
PAGES = 'https://huggingface.co/SLDGroup/'
REPOSITORY = PAGES + 'MobileViG/resolve/main/'  # files of MobileViG itself
PYRAMID_VIG = (
    'https://github.com/huawei-noah/Efficient-AI-Backbones/releases/tag/pyramid-vig'
)
MAX_UNKNOWN = 2**28  # limit in bytes if the server does not tell a file's length
HOW_WITHOUT = 'To start from random weights, set model.backbone.init_cfg=None.'


class Published(NamedTuple):
    """A file that the authors published.

    Attributes:
        path: Path of the file in its model repository. None if unknown.
        sha256: SHA-256 of the file. None if unknown.
        page: Name of the model repository. None if unknown.
        parent: Address below which the repository is, or may be.
    """

    path: str | None
    sha256: str | None = None
    page: str | None = 'MobileViG'
    parent: str = PAGES

    @property
    def url(self) -> str | None:
        """Address of the file. None if unknown."""
        if self.page is None or self.path is None:
            return None
        if self.page == 'MobileViG':
            return REPOSITORY + self.path
        return f'{self.parent}{self.page}/resolve/main/{self.path}'


def name_of(family: str, arch: str) -> str:
    """Return the ``mobilevig://`` name of a backbone's ImageNet file.

    Args:
        family (str): Lower-case name of the backbone.
        arch (str): Size of the backbone.

    Returns:
        str: For example 'm' for MobileViG-M, 'greedyvig-s' for GreedyViG-S.
    """
    return arch if family == 'mobilevig' else f'{family}-{arch}'


def _files(name: str, sizes: str, path: str, page: str | None) -> dict[str, Published]:
    """Return the files of several sizes, for which ``{}`` stands in the path."""
    return {
        f'{name}-{size.lower()}': Published(path.format(size), page=page)
        for size in sizes.split()
    }


# The authors published no SHA-256, and the files could not be downloaded to compute it.
# The name of MobileViG-Ti's file and the location of MobileViGv2's ImageNet files are
# unknown. The names of the latter are taken from another project, B's by analogy.
# Pyramid ViG's are in a GitHub release, under names in another project's metafile.
PUBLISHED = {
    # ImageNet-1K: for a backbone's init_cfg
    'ti': Published(None),
    's': Published('MobileViG_S_78_2.pth.tar'),
    'm': Published('MobileViG_M_80_7.pth.tar'),
    'b': Published('MobileViG_B_82_6.pth.tar'),
    **_files('mobilevigv2', 'Ti S M B', 'MobileViG_V2_{}_Class.pth', None),
    'greedyvig-s': Published('S_GreedyViG_81_1.pth', page='GreedyViG'),
    'greedyvig-m': Published('M_GreedyViG_82_9.pth', page='GreedyViG'),
    'greedyvig-b': Published('B_GreedyViG_83_9.pth', page='GreedyViG'),
    **_files('rapidnet', 'Ti S M B', 'RapidNet_{}.pth', 'RapidNet'),
    **_files('adaptvig', 'S M B', 'AdaptViG_{}_model_best.pth', 'AdaptViG'),
    'pyramidvig-ti': Published('pvig_ti_78.5.pth.tar', None, None, PYRAMID_VIG),
    'pyramidvig-s': Published('pvig_s_82.1.pth.tar', None, None, PYRAMID_VIG),
    'pyramidvig-m': Published('pvig_m_83.1.pth.tar', None, None, PYRAMID_VIG),
    'pyramidvig-b': Published('pvig_b_83.66.pth.tar', None, None, PYRAMID_VIG),
    # Mask R-CNN on COCO: for load_from, tools/test.py and other commands
    'coco-m': Published('Detection/det_mobilevig_m_62_8.pth'),
    'coco-b': Published('Detection/det_mobilevig_b_64_3.pth'),
    **_files(
        'coco-mobilevigv2',
        'M B',
        'Obj_Detection/MobileViG_V2_{}_Detection.pth',
        'MobileViGv2',
    ),
    **_files('coco-greedyvig', 'S B', 'Detection/GreedyViG_{}_Det.pth', 'GreedyViG'),
    **_files('coco-rapidnet', 'M B', 'Detection/RapidNet_{}_Detection.pth', 'RapidNet'),
    **_files('coco-adaptvig', 'M B', 'Detection/AdaptViG_{}_Det.pth', 'AdaptViG'),
}


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_mobilevig(filename: str, map_location: str | None = None) -> dict:
    """Load a checkpoint by name, path or address, and prefer its averaged weights.

    Args:
        filename (str): ``mobilevig://`` and a name, path or address, as described at
            the top of this module. Paths and addresses also work without the scheme.
        map_location (str, optional): Device of the tensors. Defaults to the CPU.

    Returns:
        dict: The checkpoint, with its weights under ``state_dict``.

    Raises:
        UserError: If the file can't be found or downloaded, or isn't a checkpoint.
    """
    path = find_file(filename)
    return prefer_averaged(read_checkpoint(path, map_location), str(path))


def find_file(filename: str) -> Path:
    """Return the local path of a checkpoint, and download it first if necessary.

    Args:
        filename (str): See :func:`load_from_mobilevig`.

    Returns:
        Path: The file. A path that is given is not checked for existence.

    Raises:
        UserError: If the name is unknown, or the download fails.
    """
    place = filename.removeprefix(SCHEME)
    if filename.startswith(SCHEME) and '/' not in place and '\\' not in place:
        return _find_published(place)
    scheme, mark, _ = place.partition('://')
    if not mark:
        return Path(place)
    if scheme.lower() in ('http', 'https'):
        return _download(place)
    raise UserError(
        f'{without_secrets(place)} cannot be downloaded: addresses of checkpoints '
        'begin with http:// or https://.'
    )


def through_scheme(init_cfg: InitCfg) -> InitCfg:
    """Put ``mobilevig://`` before a plain path or address in an ``init_cfg``.

    MMEngine's own loaders would silently load the raw weights of the file.

    Args:
        init_cfg (dict | list): Initialization config, or a list of them.

    Returns:
        dict | list: A config with the scheme. The given one is not changed.
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
    """Make MMEngine load plain paths and addresses with :func:`load_from_mobilevig`.

    Our own commands call this, so that they load all checkpoints safely and with clear
    error messages. In other programs, MMEngine's loaders are not changed.
    """
    CheckpointLoader.register_scheme(
        ['', 'http://', 'https://'], load_from_mobilevig, force=True
    )


def _find_published(name: str) -> Path:
    if name.lower() not in PUBLISHED:
        raise UserError(
            f'{SCHEME}{name} is unknown. The names are {", ".join(PUBLISHED)}. For a '
            f'file write {SCHEME}/path/to/file, for an address '
            f'{SCHEME}https://host/file.'
        )
    published = PUBLISHED[name.lower()]
    folder = os.environ.get('MOBILEVIG_WEIGHTS')
    if folder and published.path:
        if not os.path.isdir(folder):
            raise UserError(
                f'The folder that MOBILEVIG_WEIGHTS names does not exist: {folder!r}.'
            )
        path = Path(folder, os.path.basename(published.path))
        if path.is_file():
            _verify(path, published.sha256)
            return path
    if published.url is None:
        raise UserError(
            f'The address of the published file for {SCHEME}{name}, '
            f'{published.path or "whose name is unknown"}, is not known. Look for it '
            f'below {published.parent}, download it and pass {SCHEME}/path/to/file, '
            'or put it under its own name into the folder that MOBILEVIG_WEIGHTS '
            f'names. {HOW_WITHOUT}'
        )
    return _download(published.url, published.sha256)


def _download(url: str, sha256: str | None = None) -> Path:
    """Return a file's path in torch hub's cache, and download it if it is missing."""
    name = os.path.basename(re.split('[?#]', url)[0])
    name = quote(name, safe=' ')[-100:]  # a file system allows 255 bytes
    if not url.startswith((REPOSITORY, PAGES)):
        # Many files have the same name, for example model_best.pth.tar.
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}'
    path = Path(hub.get_dir(), 'checkpoints', name)
    # One process per machine downloads the file; the others wait at the barrier. All
    # processes must reach it, whether or not they found the file.
    try:
        first = os.environ.get('LOCAL_RANK', '0') == '0'
        if (first or not is_distributed()) and not path.is_file():
            _fetch(url, path, sha256)
    finally:
        barrier()
    if not path.is_file():
        raise UserError(
            f'{path} is missing: the download failed in the first process of this '
            'machine. See the message of that process.'
        )
    _verify(path, sha256)
    return path


def _fetch(url: str, path: Path, sha256: str | None) -> None:
    def check(part: Path) -> None:
        _verify(part, sha256)
        read_checkpoint(part, 'meta')  # rejects an error page, for example

    shown = without_secrets(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(path, check, unique=True) as part,
            urllib.request.urlopen(_request(url), timeout=60) as answer,
            part.open('wb') as file,
        ):
            size = answer.length or 0  # 0 if unknown: read until the end
            with tqdm(
                desc=f'Downloading {path.name}',
                total=size or None,
                unit='B',
                unit_scale=True,
            ) as progress:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    progress.update(len(chunk))
                    if not size and file.tell() > MAX_UNKNOWN:
                        raise OSError(
                            'the server does not tell the length of the file, and '
                            f'sends more than {MAX_UNKNOWN >> 20} MiB'
                        )
            if file.tell() < size:
                raise OSError(
                    f'the connection broke off after {file.tell()} of {size} bytes'
                )
    except UserError as error:
        raise UserError(f'{shown} is not a checkpoint: {error}') from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        # A malformed address, perhaps of a redirection, raises a ValueError.
        raise UserError(
            f'{shown} could not be downloaded: {hide_secrets(str(error), url)}. Try '
            f'again, or download the file elsewhere, save it as {path} or anywhere '
            f'else and give it as {SCHEME}/path/to/file. {HOW_WITHOUT}'
        ) from None


def _request(url: str) -> urllib.request.Request:
    """Return a request whose user and password are in a header, not in the address."""
    parts = urlsplit(quote(url, safe=string.punctuation))
    user, mark, host = parts.netloc.rpartition('@')
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    if mark:
        encoded = base64.b64encode(unquote_to_bytes(user)).decode()
        # A redirection may lead to another host, which must not get the password.
        request.add_unredirected_header('Authorization', f'Basic {encoded}')
    return request


def _verify(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    if found.hexdigest() != sha256:
        raise UserError(
            f'{path} is not the published file, or is damaged: its SHA-256 is '
            f'{found.hexdigest()}, but should be {sha256}. Delete the file to '
            'download it again.'
        )
