"""Web page that runs a detector in the browser, with onnxruntime-web."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...io import atomic_write
from ..metadata import to_json

PAGE = Path(__file__).parent
PAGE_FILES = ('*.html', '*.js', 'serve.py')
MODEL = 'model.onnx'
PACKAGE = 'onnxruntime-web@1.30.0'  # the tested version
# Files of the package (138 MB) that a page needs: WebAssembly for CPUs. package.json
# contains the version and the licence (MIT).
FILES = (
    'package.json',
    'dist/ort.wasm.min.mjs',
    'dist/ort-wasm-simd-threaded.mjs',
    'dist/ort-wasm-simd-threaded.wasm',
)
BY_HAND = (
    f'Or run `npm pack {PACKAGE}` on a machine with npm, unpack the archive, and give '
    'its folder "package" with --ort-web.'
)


def check_folder(folder: Path) -> None:
    """Check that writing a page to a folder replaces no other files.

    Args:
        folder (Path): The folder of the page.

    Raises:
        UserError: If the folder exists, is not empty and does not contain a page.
    """
    is_page = (folder / MODEL).is_file() and (folder / 'serve.py').is_file()
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_page and not is_empty:
        raise UserError(
            f'--out {folder} exists, and is not a page that --format web wrote: it '
            'would be replaced. Name a folder that does not exist yet.'
        )


def write_web(folder: Path, metadata: dict[str, Any], ort_web: Path) -> None:
    """Write a web page and all files that it needs, except for the model, ``MODEL``.

    The page loads nothing from other servers.

    Args:
        folder (Path): The folder of the page.
        metadata (dict): The metadata, from :func:`..metadata.make_metadata`. It is
            written to model.json, because onnxruntime-web can't read it from a model.
        ort_web (Path): The folder of onnxruntime-web, from :func:`find_ort_web`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in PAGE_FILES:
        for source in PAGE.glob(pattern):
            shutil.copyfile(source, folder / source.name)
    (folder / 'ort').mkdir()
    for name in FILES:
        shutil.copyfile(ort_web / name, folder / 'ort' / Path(name).name)
    (folder / 'model.json').write_text(to_json(metadata), encoding='utf-8')


def find_ort_web(given: str | Path | None = None, cache: Path | None = None) -> Path:
    """Find the npm package onnxruntime-web, which npm downloads once.

    Args:
        given (str | Path | None): The unpacked package, if the user has it.
        cache (Path | None): The folder for the download. Defaults to
            ``$XDG_CACHE_HOME/mobilevig_det`` or ``~/.cache/mobilevig_det``.

    Returns:
        Path: The folder of the package, which contains all of ``FILES``.

    Raises:
        UserError: If ``given`` is not the package, or npm can't download it.
    """
    if given is not None:
        missing = [name for name in FILES if not Path(given, name).is_file()]
        if missing:
            raise UserError(
                f'--ort-web {given} is not the npm package onnxruntime-web: it has no '
                f'{missing[0]}. {BY_HAND}'
            )
        return Path(given)
    home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = (cache or home / 'mobilevig_det') / PACKAGE
    if not folder.is_dir():
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    npm = shutil.which('npm')
    if npm is None:
        raise UserError(
            f'The page needs {PACKAGE}, and npm, which fetches it, is not here: '
            f'install Node.js. {BY_HAND}'
        )
    print(f'npm fetches {PACKAGE} (33 MB) into {folder.parent}, once.', flush=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory() as temporary,
            atomic_write(folder, unique=True) as part,
        ):
            command = [npm, 'pack', PACKAGE, '--silent']
            # npm verifies the checksum of the archive.
            subprocess.run(command, check=True, cwd=temporary, capture_output=True)
            (archive,) = Path(temporary).glob('*.tgz')
            with tarfile.open(archive) as tar:
                for name in FILES:
                    file = tar.extractfile(f'package/{name}')
                    assert file is not None
                    (part / name).parent.mkdir(parents=True, exist_ok=True)
                    (part / name).write_bytes(file.read())
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode(errors='replace').strip()[-500:]
        raise UserError(f'npm cannot fetch {PACKAGE}: {output}\n{BY_HAND}') from error
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UserError(
            f'{PACKAGE} cannot be put into {folder}: {error}. {BY_HAND}'
        ) from error
