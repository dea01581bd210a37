"""Find weights by name, path or address: the ``mobilevig://`` scheme of MMEngine.

=============================  =============================================
``mobilevig://m``              the file that the authors published (see PUBLISHED)
``mobilevig:///some/file``     a file
``mobilevig://https://…``      a file to download
=============================  =============================================

A name is looked up in the folder ``MOBILEVIG_WEIGHTS`` (an environment variable;
skipped if unset), then among torch hub's downloads, then downloaded to there.
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

InitCfg = dict | list  # of dicts

SCHEME = 'mobilevig://'
PAGES = 'https://huggingface.co/SLDGroup/'
REPOSITORY = PAGES + 'MobileViG/resolve/main/'  # of MobileViG itself
PYRAMID_VIG = (
    'https://github.com/huawei-noah/Efficient-AI-Backbones/releases/tag/pyramid-vig'
)
MAX_UNKNOWN = 2**28  # bytes of a file whose length the server does not say
HOW_WITHOUT = 'To start from random weights, set model.backbone.init_cfg=None.'


class Published(NamedTuple):
    """A file that the authors published.

    Attributes:
        path: Path below its model page. None if unknown.
        sha256: Its SHA-256. None if unknown.
        page: Name of its model page. None if unknown.
        parent: Address below which the page is, or may be.
    """

    path: str | None
    sha256: str | None = None
    page: str | None = 'MobileViG'
    parent: str = PAGES

    @property
    def url(self) -> str | None:
        """Its address. None if unknown."""
        if self.page is None or self.path is None:
            return None
        if self.page == 'MobileViG':
            return REPOSITORY + self.path
        return f'{self.parent}{self.page}/resolve/main/{self.path}'


def name_of(family: str, arch: str) -> str:
    """Return our name of a backbone's ImageNet file: 'm' for MobileViG-M,
    'greedyvig-s' for GreedyViG-S."""
    return arch if family == 'mobilevig' else f'{family}-{arch}'


def _files(name: str, sizes: str, path: str, page: str | None) -> dict[str, Published]:
    """Files of several sizes, which are ``{}`` in the path."""
    return {
        f'{name}-{size.lower()}': Published(path.format(size), page=page)
        for size in sizes.split()
    }


# No SHA-256 was published, and no file could be downloaded where this was written.
# Unknown are the name of MobileViG-Ti's file, and where MobileViGv2's ImageNet files
# are (their names are another project's, B's by analogy). Pyramid ViG's are in a GitHub
# release, under names that another project's metafile has.
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
    """Load a checkpoint by name, path or address; averaged weights are preferred.

    Args:
        filename (str): See the top of this module; the scheme in front may be left
            out.
        map_location (str, optional): Same as :func:`torch.load`.

    Returns:
        dict: The checkpoint, its weights under ``state_dict``.

    Raises:
        UserError: If the file can't be found or downloaded, or isn't a checkpoint.
    """
    path = find_file(filename)
    return prefer_averaged(read_checkpoint(path, map_location), str(path))


def find_file(filename: str) -> Path:
    """Return the path of a checkpoint on this machine; download it if needed.

    Args:
        filename (str): As for :func:`load_from_mobilevig`.

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
    """Return the init_cfg with ``mobilevig://`` in front of a bare path or address.

    MMEngine's own loaders would silently take the raw weights out of it.
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
    """Make MMEngine load plain paths and addresses by the loader above as well.

    For our own commands: what they load is then safe and has our messages. In other
    programs, MMEngine's loaders stay as they are.
    """
    CheckpointLoader.register_scheme(
        ['', 'http://', 'https://'], load_from_mobilevig, force=True
    )


def _find_published(name: str) -> Path:
    if name.lower() not in PUBLISHED:
        raise UserError(
            f'{SCHEME}{name} is unknown: the names are {", ".join(PUBLISHED)}; a file '
            f'is {SCHEME}/path/to/file, an address {SCHEME}https://host/file.'
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
            f'{published.path or "whose name is unknown"}, is not known: look for it '
            f'below {published.parent}, and give the file yourself: '
            f'{SCHEME}/path/to/file, or, under its own name, in the folder that '
            'MOBILEVIG_WEIGHTS names. '
            f'{HOW_WITHOUT}'
        )
    return _download(published.url, published.sha256)


def _download(url: str, sha256: str | None = None) -> Path:
    """Return the path of a file in torch hub's cache; download it if it's missing."""
    name = os.path.basename(re.split('[?#]', url)[0])
    name = quote(name, safe=' ')[-100:]  # a file system allows 255 bytes
    if not url.startswith((REPOSITORY, PAGES)):
        # Many files are called model_best.pth.tar.
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}'
    path = Path(hub.get_dir(), 'checkpoints', name)
    # One process per machine downloads; the others of a launcher wait for it. All of
    # them reach the barrier, whatever each one found on the disk.
    try:
        first = os.environ.get('LOCAL_RANK', '0') == '0'
        if (first or not is_distributed()) and not path.is_file():
            _fetch(url, path, sha256)
    finally:
        barrier()
    if not path.is_file():
        raise UserError(
            f'{path} is missing: its download failed in the first process of this '
            'machine, see its message.'
        )
    _verify(path, sha256)
    return path


def _fetch(url: str, path: Path, sha256: str | None) -> None:
    def check(part: Path) -> None:
        _verify(part, sha256)
        read_checkpoint(part, 'meta')  # an error page, say, is not kept

    shown = without_secrets(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(path, check, unique=True) as part,
            urllib.request.urlopen(_request(url), timeout=60) as answer,
            part.open('wb') as file,
        ):
            size = answer.length or 0  # None or not a number: until the end
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
                            'the server does not say how long the file is, and sends '
                            f'more than {MAX_UNKNOWN >> 20} MiB'
                        )
            if file.tell() < size:
                raise OSError(
                    f'the connection broke off after {file.tell()} of {size} bytes'
                )
    except UserError as error:
        raise UserError(f'{shown} gave no checkpoint: {error}') from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        # ValueError: of a malformed address, also of one that it was redirected to.
        raise UserError(
            f'{shown} could not be downloaded: {hide_secrets(str(error), url)}. Try '
            f'again, or download the file elsewhere, save it as {path} or anywhere '
            f'else and give it as {SCHEME}/path/to/file. {HOW_WITHOUT}'
        ) from None


def _request(url: str) -> urllib.request.Request:
    """Return the request of an address, whose user and password go into a header."""
    parts = urlsplit(quote(url, safe=string.punctuation))
    user, mark, host = parts.netloc.rpartition('@')
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    if mark:
        encoded = base64.b64encode(unquote_to_bytes(user)).decode()
        # A redirect may lead to another host, which must not see it.
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
            f'{path} is not the published file, or was damaged: its SHA-256 is '
            f'{found.hexdigest()}, and should be {sha256}. Delete it, and it is '
            'downloaded again.'
        )
