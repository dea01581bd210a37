"""ONNX Runtime for browsers: the npm package onnxruntime-web, brought here once."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ..errors import UserError

PACKAGE = 'onnxruntime-web@1.30.0'  # the version that was tried
# What a page needs of its 138 MB: WebAssembly for CPUs. package.json names the
# version and the licence (MIT).
FILES = (
    'package.json',
    'dist/ort.wasm.min.mjs',
    'dist/ort-wasm-simd-threaded.mjs',
    'dist/ort-wasm-simd-threaded.wasm',
)
BY_HAND = (
    f'Or, on a machine with npm: `npm pack {PACKAGE}`; unpack the archive, and name '
    'the folder "package" that is in it with --ort-web.'
)


def find_ort_web(given: str | Path | None = None, cache: Path | None = None) -> Path:
    """The folder of the package, which has all of ``FILES``.

    Args:
        given (str | Path | None): Where the package is, as npm or its archive has it.
            By default npm fetches it, once, into ``cache``.
        cache (Path | None): By default a folder of ours in ``$XDG_CACHE_HOME`` or
            ``~/.cache``.

    Raises:
        UserError: If it isn't where it is said to be, or npm can't fetch it.
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
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            command = [npm, 'pack', PACKAGE, '--silent']
            # npm compares the archive with the registry's checksum.
            subprocess.run(command, check=True, cwd=temporary, capture_output=True)
            (archive,) = Path(temporary).glob('*.tgz')
            unpacked = Path(temporary, 'package')
            with tarfile.open(archive) as tar:
                for name in FILES:
                    file = tar.extractfile(f'package/{name}')
                    assert file is not None
                    target = unpacked / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with file, target.open('wb') as copy:
                        shutil.copyfileobj(file, copy)
            os.replace(unpacked, folder)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors='replace').strip()[-500:]
        raise UserError(f'npm cannot fetch {PACKAGE}: {said}\n{BY_HAND}') from error
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UserError(
            f'{PACKAGE} cannot be put into {folder}: {error}. {BY_HAND}'
        ) from error
