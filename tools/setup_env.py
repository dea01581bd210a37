#!/usr/bin/env python3
"""Make the environment that ``make demo`` and ``make test`` run in.

Needs the standard library only. What takes long is mmcv, whose operators
must fit the torch under them: a wheel from the user's cache is taken, else a
prebuilt one, else it is compiled once and kept in the cache.

Read from the environment: STACK (openmmlab or onedl), TORCH (a version or a
pip requirement), DEVICE (cpu or cuda), MAX_JOBS (compilers at a time).
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
STACKS = {'openmmlab': '.venv', 'onedl': '.venv-onedl'}
GIB = 2**30
NEED = {'cpu': 3, 'cuda': 10}  # GiB of an environment
NEED_BUILD = 1  # GiB to compile mmcv in
TORCH_CPU = 'https://download.pytorch.org/whl/cpu'
PREBUILT = {
    'mmcv': 'https://download.openmmlab.com/mmcv/dist/'
    '{device}/torch{major}.{minor}/index.html',
    'onedl-mmcv': 'https://mmwheels.onedl.ai/{device}-torch{major}{minor}0/index.html',
}
FACTS = """
import importlib.metadata, json, torch
print(json.dumps(dict(
    torch=torch.__version__, cuda=torch.version.cuda,
    pip=importlib.metadata.version('torch'),
    gpus=sorted({'%d.%d' % torch.cuda.get_device_capability(i)
                 for i in range(torch.cuda.device_count())}))))
"""
CHECK = """
import importlib.metadata, importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
spec = importlib.util.find_spec('mobilevig_det')
print(json.dumps([found, spec and spec.origin]))
"""
IMPORT = """
import mmcv.ops, mmdet, mmengine, torch
import mobilevig_det
"""


class Stop(Exception):
    """The set-up can't go on; the message says what to do, on one line."""


def check_python(version=sys.version_info):
    """Refuse a Python that is too old or can't make environments."""
    if tuple(version[:2]) < OLDEST:
        raise Stop(
            'this is Python {}.{}, and 3.10 or newer is needed: '
            'install one, or name it: make PYTHON=/path/to/python3.11'.format(*version)
        )
    if sys.platform == 'win32':
        raise Stop('Windows is not covered: run this inside WSL')
    for module in ('venv', 'ensurepip'):
        try:
            __import__(module)
        except ImportError:
            raise Stop(
                'this Python lacks its {} module: install it (Debian, '
                'Ubuntu: sudo apt install python{}.{}-venv)'.format(module, *version)
            ) from None


def check_compiler():
    """The C++ compiler to use, once Python's headers are there too.

    Returns:
        dict: What to add to the environment of a build.
    """
    named = os.environ.get('CXX')
    for name in named.split()[:1] if named else ('c++', 'g++', 'clang++'):
        if shutil.which(name):
            break
    else:
        raise Stop(
            'no C++ compiler{} to build mmcv with: install one (Debian,'
            ' Ubuntu: sudo apt install g++; macOS: xcode-select '
            '--install)'.format(' ' + named if named else '')
        )
    header = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not header.is_file():
        raise Stop(
            'no {} to build mmcv with: install the headers of Python '
            '(Debian, Ubuntu: sudo apt install python{}.{}-dev)'.format(
                header, *sys.version_info
            )
        )
    return (
        {}
        if named or name == 'c++'
        else {'CXX': name, 'CC': {'g++': 'gcc'}.get(name, 'clang')}
    )


def check_room(folder, gib, what):
    """Refuse to start what the disk has no room for."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(str(folder)).free
    if free < gib * GIB:
        raise Stop(
            f'{what} needs {gib} GiB in {folder}, where '
            f'{free / GIB:.1f} GiB are free: make '
            'room, then run the same command again'
        )


def cache_folder():
    """Where built wheels are kept for other clones."""
    base = os.environ.get('XDG_CACHE_HOME')
    if not base:
        base = Path.home() / (
            'Library/Caches' if sys.platform == 'darwin' else '.cache'
        )
    return Path(base) / 'mobilevig_det'


def read_requirements(stack, torch=None):
    """What to give to pip for the modules torch, mmengine, mmcv, mmdet and
    mmseg (that one for a test).
    """
    if stack not in STACKS:
        raise Stop('there is no STACK={}: take {}'.format(stack, ' or '.join(STACKS)))
    lines = (ROOT / 'requirements' / (stack + '.txt')).read_text()
    lines = [line for line in lines.splitlines() if line[:1] not in ('', '#')]
    wanted = dict(zip(('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg'), lines))
    if torch:
        wanted['torch'] = 'torch==' + torch if torch[0].isdigit() else torch
    return wanted


def answers(url, timeout=5):
    """Whether there is something at that address, found out quickly."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return True
    except (OSError, ValueError):
        return False


def choose_device():
    """'cuda' where mmcv's operators can be compiled for a GPU, else 'cpu'."""
    device = os.environ.get('DEVICE')
    if device not in (None, '', 'cpu', 'cuda'):
        raise Stop(f'there is no DEVICE={device}: take cpu or cuda')
    if device:
        return device
    if not shutil.which('nvidia-smi'):
        return 'cpu'
    if shutil.which('nvcc') or os.environ.get('CUDA_HOME'):
        return 'cuda'
    print(
        'There is an NVIDIA GPU but no nvcc to compile mmcv with: this '
        'environment will be for the CPU.'
    )
    return 'cpu'


def wheel_key(mmcv, facts):
    """Name of what a wheel of mmcv was built against."""
    return '_'.join(
        [
            mmcv.replace('==', '-'),
            'torch-' + facts['torch'],
            '-'.join([facts['device']] + facts['gpus']),
            sys.implementation.cache_tag,
            sysconfig.get_platform(),
        ]
    )


def prebuilt_page(mmcv, torch, device):
    """Address of the prebuilt wheels for that torch, None if there is none.

    The device is 'cpu' or that of a CUDA version, as 'cu121'.
    """
    numbers = re.search(r'(\d+)\.(\d+)', torch)
    template = PREBUILT.get(mmcv.partition('==')[0])
    if not numbers or not template:
        return None
    page = template.format(
        device=device, major=numbers.group(1), minor=numbers.group(2)
    )
    return page if answers(page) else None


def explain(text):
    """What is known to be behind a failed command, from what it printed."""
    full = re.search('.*(No space left on device|Disk quota exceeded).*', text)
    if full:
        return (
            f'a disk is full ({full.group().strip()}): make room, '
            'or name another folder for '
            'temporary files in TMPDIR, then run the same command again'
        )
    if re.search(
        r'(?i)connection broken|NewConnectionError|name resolution|'
        r'Max retries exceeded|Read timed out|Network is unreachable|'
        r'ConnectTimeout|ProxyError|Could not fetch URL',
        text,
    ):
        return (
            'the package index does not answer: check the network (or the '
            'proxy in HTTPS_PROXY), then run the same command again'
        )
    if re.search(r'Killed signal|: Killed|ninja: .*signal 9', text):
        return (
            'the compiler ran out of memory: run the same command again '
            'with MAX_JOBS=1 before it'
        )
    missing = re.search('No matching distribution found for (.*)', text)
    if missing:
        return (
            'the package index has no {} for Python {}.{} on {}: try '
            'another Python (make PYTHON=…) or torch (make TORCH=…)'.format(
                missing.group(1), *sys.version_info[:2], sysconfig.get_platform()
            )
        )
    return None


class Progress:
    """One moving line on a terminal; elsewhere a line now and then."""

    def __init__(self, text, every=60):
        self.text, self.detail = text, ''
        self.tty, self.every = sys.stdout.isatty(), every
        self.start = self.shown = time.monotonic()
        if not self.tty:
            print(text, flush=True)

    def line(self):
        seconds = int(time.monotonic() - self.start)
        parts = (self.text, self.detail, f'{seconds // 60}:{seconds % 60:02}')
        return ', '.join(part for part in parts if part)

    def tick(self):
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            print('\r' + self.line()[:width] + '\x1b[K', end='', flush=True)
        elif time.monotonic() - self.shown >= self.every:
            self.shown = time.monotonic()
            print(self.line(), flush=True)

    def close(self):
        self.detail = ''
        if self.tty:
            print('\r' + self.line() + '\x1b[K', flush=True)


class Setup:
    """An environment and the steps that make it."""

    def __init__(self, stack='openmmlab', torch=None):
        self.stack = stack
        self.wanted = read_requirements(stack, torch)
        self.venv = ROOT / STACKS[stack]
        self.python = str(self.venv / 'bin' / 'python')
        self.stamp = self.venv / 'mobilevig_det.json'
        # While it is there, an installation was cut off half-way.
        self.half = self.venv / 'installing'
        self.log = ROOT / 'build' / f'setup-{stack}.log'
        self.wheels = cache_folder() / 'wheels'
        self.env = {
            key: value
            for key, value in os.environ.items()
            if key not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PIP_TARGET')
        }
        self.env.update(
            PIP_USER='0', PIP_DISABLE_PIP_VERSION_CHECK='1', PYTHONNOUSERSITE='1'
        )
        self.lock_files = ()
        self.fixed = ['numpy']  # what later steps must not change

    # -- what is there already

    def fingerprint(self):
        """Changes with whatever should make a finished set-up run again."""
        parts = [list(sys.version_info[:2]), self.wanted, os.environ.get('DEVICE', '')]
        parts += [
            (ROOT / name).read_text() for name in ('setup.py', 'tools/setup_env.py')
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read_stamp(self):
        try:
            return json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}

    def is_ready(self):
        """Whether nothing is left to do; takes a fraction of a second."""
        stamp = self.read_stamp()
        if stamp.get('fingerprint') != self.fingerprint():
            return False
        names = list(stamp['versions'])
        try:
            done = subprocess.run(
                [self.python, '-c', CHECK] + names,
                env=self.env,
                cwd='/',
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return False
        found, origin = json.loads(done.stdout.decode())
        ours = ROOT / 'mobilevig_det' / '__init__.py'
        return found == stamp['versions'] and origin == str(ours)

    # -- running things

    def call(self, what, argv, **kwargs):
        """Run a command, its output into the log, and show that it lives."""
        env = dict(self.env, **kwargs.pop('env', {}))
        progress = Progress(what)
        with self.log.open('a') as log:
            log.write('\n$ {}\n'.format(' '.join(map(str, argv))))
            start = log.tell()
            log.flush()
            process = subprocess.Popen(
                [str(arg) for arg in argv],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                errors='replace',
                start_new_session=True,
                # Left alone, it keeps the lock until it ends.
                pass_fds=self.lock_files,
                **kwargs,
            )

            def read():
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    compiled = re.match(r'\[(\d+)/(\d+)\]', line.strip())
                    if compiled:
                        progress.detail = '{} of {} files'.format(*compiled.groups())
                    fetched = re.match(r'\s*(?:Downloading|Using cached) (\S+)', line)
                    if fetched:
                        progress.detail = fetched.group(1).rpartition('/')[2]

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            try:
                while reader.is_alive():
                    reader.join(0.5 if progress.tty else 2)
                    progress.tick()
                code = process.wait()
            except BaseException:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
            finally:
                progress.close()
        if code:
            with self.log.open() as log:
                log.seek(start)
                text = log.read()
            lines = [line for line in text.splitlines() if line.strip()]
            raise Stop(
                explain(text)
                or f'{what} failed with: {lines[-1].strip() if lines else code} '
                '(all of it is in '
                f'{self.log})'
            )

    def pip(self, what, *args, **kwargs):
        """Install something; cut off half-way, the environment is void."""
        self.half.touch()
        self.call(what, [self.python, '-m', 'pip', 'install', *args], **kwargs)
        self.half.unlink()

    def runs(self, code):
        """Whether the environment's Python gets through that program."""
        with self.log.open('a') as log:
            log.write(f'\n$ python -c {code!r}\n')
            log.flush()
            try:
                subprocess.run(
                    [self.python, '-c', code],
                    env=self.env,
                    cwd='/',
                    stdout=log,
                    stderr=log,
                    check=True,
                )
            except (OSError, subprocess.CalledProcessError):
                return False
            return True

    # -- the steps

    def make_venv(self, device):
        sound = (
            not self.half.exists()
            and self.read_stamp().get('python') == sys.version
            and self.runs('import pip')
        )
        if sound:
            return
        shutil.rmtree(str(self.venv), ignore_errors=True)
        check_room(self.venv, NEED[device], 'the environment')
        self.call(
            'Python {}.{}.{} in {}'.format(*sys.version_info[:3], self.venv.name),
            [sys.executable, '-m', 'venv', self.venv],
        )
        self.stamp.write_text(json.dumps({'python': sys.version}))

    def install_torch(self, device):
        options = []
        if device == 'cpu' and sys.platform == 'linux':
            # What the ordinary index has drags gigabytes of CUDA along.
            if answers(TORCH_CPU + '/torch/'):
                options = ['--extra-index-url', TORCH_CPU]
            else:
                print(
                    'The index of CPU builds does not answer: unless your '
                    'own has one, gigabytes of CUDA come along.'
                )
        torch = self.wanted['torch']
        if re.match(r'torch==(1|2\.[012])\.', torch):
            self.fixed = ['numpy<2']  # what those were compiled for
        self.pip(
            f'PyTorch ({torch})',
            torch,
            'setuptools<80',
            'wheel',
            'ninja',
            *self.fixed,
            *options,
        )

    def facts(self, device):
        """What mmcv must fit: torch, its CUDA and the GPUs to build for."""
        out = subprocess.run(
            [self.python, '-c', FACTS], env=self.env, cwd='/', capture_output=True
        )
        if out.returncode:
            raise Stop(
                f'torch does not import: {out.stderr.decode().strip().splitlines()[-1]}'
            )
        facts = dict(json.loads(out.stdout.decode()), device=device)
        # PyPI's torch calls itself 2.13.0+cu130, but is 2.13.0 to pip.
        self.fixed.append('torch==' + facts['pip'])
        if device == 'cpu':
            facts['gpus'] = []
        elif not facts['cuda']:
            raise Stop(
                'torch {} has no CUDA: name one that has in TORCH, or '
                'DEVICE=cpu'.format(facts['torch'])
            )
        return facts

    def mend_opencv(self):
        """Without OpenGL's library the wheel with windows can't load."""
        if self.runs('import cv2'):
            return
        self.call(
            'OpenCV without windows',
            [self.python, '-m', 'pip', 'uninstall', '-y', 'opencv-python'],
        )
        self.pip('OpenCV without windows', 'opencv-python-headless')

    def may_be_cached(self):
        """Whether a kept wheel could fit a torch not installed yet."""
        facts = {
            'torch': self.wanted['torch'].partition('==')[2] + '*',
            'device': 'cpu',
            'gpus': [],
        }
        return any(self.wheels.glob(wheel_key(self.wanted['mmcv'], facts) + '/*.whl'))

    def install_mmcv(self, facts, page):
        """Take mmcv from the cache, prebuilt or from its source."""
        mmcv = self.wanted['mmcv']
        key = wheel_key(mmcv, facts)
        if self.read_stamp().get('mmcv') == key and self.runs('import mmcv._ext'):
            return
        for wheel in sorted((self.wheels / key).glob('*.whl')):
            self.pip(
                f'{mmcv} from {self.wheels}', '--no-deps', '--force-reinstall', wheel
            )
            if self.runs('import mmcv._ext'):
                return self.mark(mmcv=key)
            wheel.unlink()
        if page:
            with contextlib.suppress(Stop):
                self.pip(
                    f'{mmcv}, prebuilt',
                    '--no-deps',
                    '--force-reinstall',
                    '--no-index',
                    '--only-binary',
                    ':all:',
                    '--find-links',
                    page,
                    mmcv,
                )
                if self.runs('import mmcv._ext'):
                    return self.mark(mmcv=key)
        wheel = self.build_mmcv(mmcv, key, facts)
        self.pip(mmcv, '--no-deps', '--force-reinstall', wheel)
        if not self.runs('import mmcv._ext'):
            raise Stop(
                f'the mmcv that was built does not import; see the end of {self.log}'
            )
        self.mark(mmcv=key)

    def build_mmcv(self, mmcv, key, facts):
        """Compile mmcv and keep the wheel.

        The source stays where it is until that is done, so that a build that
        was cut off goes on with the file where it stopped.
        """
        env = check_compiler()
        folder = cache_folder() / 'build' / key
        check_room(folder, NEED_BUILD, 'building mmcv')
        pip = [self.python, '-m', 'pip']
        source = folder / 'source'
        if not source.is_dir():
            shutil.rmtree(str(folder), ignore_errors=True)
            self.call(
                f'{mmcv}, source',
                pip
                + [
                    'download',
                    '--no-deps',
                    '--no-binary',
                    ':all:',
                    '--no-build-isolation',
                    '--dest',
                    folder,
                    mmcv,
                ],
                env={'MMCV_WITH_OPS': '1'},
            )
            (archive,) = folder.glob('*.tar.gz')
            with tarfile.open(str(archive)) as tar:
                safely = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
                tar.extractall(str(folder / 'unpacked'), **safely)
            (unpacked,) = (folder / 'unpacked').iterdir()
            unpacked.rename(source)
        jobs = os.environ.get('MAX_JOBS') or str(count_jobs())
        env.update(
            MMCV_WITH_OPS='1',
            MAX_JOBS=jobs,
            FORCE_CUDA='1' if facts['device'] == 'cuda' else '0',
            # Debugging symbols take a third of the time.
            CFLAGS='-g0 ' + os.environ.get('CFLAGS', ''),
        )
        if facts['device'] == 'cpu':
            env['CUDA_VISIBLE_DEVICES'] = ''
        self.call(
            f'{mmcv}, compiling ({jobs} at a time; only this once)',
            pip
            + [
                'wheel',
                '-v',
                '--no-deps',
                '--no-build-isolation',
                '--wheel-dir',
                folder / 'built',
                source,
            ],
            env=env,
        )
        (built,) = (folder / 'built').glob('*.whl')
        kept = self.wheels / key / built.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(str(built), str(kept))  # whole or not at all
        shutil.rmtree(str(folder))
        return kept

    def mark(self, **facts):
        """Write down what has been done."""
        stamp = dict(self.read_stamp(), **facts)
        partial = self.stamp.with_suffix('.part')
        partial.write_text(json.dumps(stamp, indent=1))
        os.replace(str(partial), str(self.stamp))

    def run(self):
        device = choose_device()
        page = None
        if device == 'cpu':
            page = prebuilt_page(self.wanted['mmcv'], self.wanted['torch'], device)
            if not page and not self.may_be_cached():
                check_compiler()  # sooner than after minutes of downloads
        self.make_venv(device)
        self.install_torch(device)
        facts = self.facts(device)
        if device == 'cuda':
            page = prebuilt_page(
                self.wanted['mmcv'],
                facts['torch'],
                'cu' + facts['cuda'].replace('.', ''),
            )
        self.pip(
            'MMEngine and MMDetection',
            self.wanted['mmengine'],
            self.wanted['mmdet'],
            *self.fixed,
        )
        self.mend_opencv()
        self.install_mmcv(facts, page)
        self.pip(
            'mobilevig_det and what its tests need',
            '--no-build-isolation',
            '-e',
            f'{ROOT}[test]',
            self.wanted['mmseg'],
            *self.fixed,
        )
        self.mend_opencv()
        if not self.runs(IMPORT):
            raise Stop(f'what was installed does not import; see the end of {self.log}')
        names = [requirement.partition('==')[0] for requirement in self.wanted.values()]
        out = subprocess.run(
            [self.python, '-c', CHECK] + names,
            env=self.env,
            cwd='/',
            stdout=subprocess.PIPE,
        )
        self.mark(
            fingerprint=self.fingerprint(),
            wanted=self.wanted,
            versions=json.loads(out.stdout.decode())[0],
        )


def count_jobs():
    """As many compilers as there are cores, and memory for."""
    try:
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError):
        return os.cpu_count() or 1
    return max(1, min(cores, int(memory / (1.5 * GIB))))


@contextlib.contextmanager
def locked():
    """One set-up at a time: two would compile the same on the same cores."""
    import fcntl

    path = cache_folder() / 'lock'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open('w')
    except OSError as error:
        raise Stop(
            f'{error}: name another folder for the cache in XDG_CACHE_HOME'
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another set-up is running; waiting for it.', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_python()
        setup = Setup(os.environ.get('STACK') or 'openmmlab', os.environ.get('TORCH'))
        if setup.is_ready():
            return
        setup.log.parent.mkdir(exist_ok=True)
        with locked() as lock:
            setup.lock_files = (lock,)
            if not setup.is_ready():
                setup.run()
    except Stop as stop:
        sys.exit(f'make: {stop}.')
    except OSError as error:
        sys.exit(f'make: {explain(str(error)) or error}.')
    except KeyboardInterrupt:
        sys.exit('Interrupted; the same command goes on from here.')


if __name__ == '__main__':
    main()
