"""The set-up of `make`, with fakes for what is slow or can't be had here."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'
FACTS = {'torch': '2.13.0+cpu', 'cuda': None, 'device': 'cpu', 'gpus': []}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The script, with a clone and a cache of its own."""
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clone = tmp_path / 'clone'
    for name in ('requirements', 'tools'):
        shutil.copytree(ROOT / name, clone / name, symlinks=True)
    shutil.copy(ROOT / 'setup.py', clone)
    (clone / 'build').mkdir()
    monkeypatch.setattr(module, 'ROOT', clone)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('TORCH', 'STACK', 'DEVICE', 'MAX_JOBS', 'CXX'):
        monkeypatch.delenv(name, raising=False)
    return module


def stopped(module, function, *args):
    with pytest.raises(module.Stop) as caught:
        function(*args)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_old_pythons_can_read_it():
    """So that they can say that they are too old."""
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))
    assert not re.search(r"\bf'", SCRIPT.read_text())


def test_wrong_python(module):
    message = stopped(module, module.check_python, (3, 9, 18))
    assert 'Python 3.9' in message and '3.10 or newer' in message
    for version in ((3, 10, 0), (3, 12, 7)):
        module.check_python(version)


def test_no_venv_module(module, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ensurepip', None)
    message = stopped(module, module.check_python, (3, 11, 2))
    assert 'apt install python3.11-venv' in message


def test_no_compiler(module, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert 'apt install g++' in stopped(module, module.check_compiler)
    monkeypatch.setenv('CXX', 'nope -O1')
    assert 'compiler nope' in stopped(module, module.check_compiler)
    monkeypatch.delenv('CXX')
    (tmp_path / 'clang++').touch(mode=0o755)
    (tmp_path / 'Python.h').touch()
    monkeypatch.setattr(
        module.sysconfig, 'get_paths', lambda: {'include': str(tmp_path)}
    )
    assert module.check_compiler() == {'CXX': 'clang++', 'CC': 'clang'}
    (tmp_path / 'Python.h').unlink()
    assert '-dev)' in stopped(module, module.check_compiler)


def test_no_compiler_is_said_first(module, tmp_path, monkeypatch):
    """Before anything is fetched, but only if mmcv must be compiled."""
    monkeypatch.setattr(module, 'answers', lambda url: False)
    monkeypatch.setattr(module, 'choose_device', lambda: 'cpu')
    monkeypatch.setenv('PATH', str(tmp_path))
    setup = module.Setup()

    def reached(device):
        raise module.Stop('venv')

    monkeypatch.setattr(setup, 'make_venv', reached)
    assert 'compiler' in stopped(module, setup.run)
    other = dict(FACTS, torch='2.1.0+cpu')
    for facts, expected in ((other, 'compiler'), (FACTS, 'venv')):
        kept = setup.wheels / module.wheel_key('mmcv==2.1.0', facts) / 'x.whl'
        kept.parent.mkdir(parents=True)
        kept.touch()
        assert expected in stopped(module, setup.run)


def test_full_disk(module, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(
        module.shutil, 'disk_usage', lambda path: usage(0, 0, 2.5 * 2**30)
    )
    missing = tmp_path / 'not' / 'there' / 'yet'
    module.check_room(missing, 2, 'x')
    message = stopped(module, module.check_room, missing, 3, 'the environment')
    assert 'needs 3 GiB' in message and '2.5 GiB' in message
    assert str(tmp_path) in message
    assert 'TMPDIR' in module.explain(
        "x\nERROR: [Errno 28] No space left on device: '/tmp/y'\n"
    )


def test_no_network(module, monkeypatch):
    """A real pip that asks a port where nothing listens."""
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    setup = module.Setup()
    message = stopped(
        module,
        setup.call,
        'PyTorch',
        [
            sys.executable,
            '-m',
            'pip',
            'download',
            '--retries',
            '1',
            '--index-url',
            'http://127.0.0.1:9/simple',
            'torch==2.13.0',
        ],
    )
    assert 'check the network' in message and 'same command again' in message
    assert not module.answers('http://127.0.0.1:9/')


def test_failure_names_the_log(module):
    setup = module.Setup()
    message = stopped(
        module,
        setup.call,
        'mmcv',
        [sys.executable, '-c', 'print(1); raise SystemExit("cc1plus: bad")'],
    )
    assert 'mmcv failed with: cc1plus: bad' in message
    assert str(setup.log) in message and 'cc1plus' in setup.log.read_text()
    assert 'MAX_JOBS=1' in module.explain(
        'c++: fatal error: Killed signal terminated program cc1plus'
    )
    assert 'make TORCH=' in module.explain(
        'ERROR: No matching distribution found for torch==9'
    )


def test_unknown_stack_and_device(module, monkeypatch):
    assert 'openmmlab or onedl' in stopped(module, module.Setup, 'mm')
    monkeypatch.setenv('DEVICE', 'tpu')
    assert 'cpu or cuda' in stopped(module, module.choose_device)


def test_no_cache_folder(module, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert 'XDG_CACHE_HOME' in stopped(module, module.locked().__enter__)


def test_cuda_is_built_for_only_if_asked(module, setup):
    """Torch may have CUDA where nothing can compile for it."""
    facts = dict(FACTS, torch='2.13.0', cuda='13.0')
    setup.install_mmcv(facts, None)
    assert setup.build_env['FORCE_CUDA'] == '0'
    assert setup.build_env['CUDA_VISIBLE_DEVICES'] == ''
    setup.install_mmcv(dict(facts, device='cuda', gpus=['9.0']), None)
    assert setup.build_env['FORCE_CUDA'] == '1'
    assert 'CUDA_VISIBLE_DEVICES' not in setup.build_env


def test_torch_can_be_another(module):
    assert module.read_requirements('onedl', '2.9.1') == {
        'torch': 'torch==2.9.1',
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mmseg': 'onedl-mmsegmentation==1.4.2',
    }
    assert module.read_requirements('openmmlab', 'torch<2.9')['torch'] == ('torch<2.9')


def test_torch_is_kept_by_the_name_pip_knows(module, tmp_path):
    """PyPI's torch is 2.13.0+cu130 to itself, and 2.13.0 to pip."""
    setup = module.Setup()
    setup.python = sys.executable
    setup.env['PYTHONPATH'] = str(tmp_path / 'site')
    torch, info = (
        tmp_path / 'site' / name for name in ('torch', 'torch-2.13.0.dist-info')
    )
    torch.mkdir(parents=True)
    info.mkdir()
    (info / 'METADATA').write_text('Name: torch\nVersion: 2.13.0\n')
    (torch / 'version.py').write_text('cuda = "13.0"')
    (torch / 'cuda.py').write_text('def device_count(): return 0')
    (torch / '__init__.py').write_text(
        'from torch import cuda, version\n__version__ = "2.13.0+cu130"'
    )
    assert setup.facts('cpu')['torch'] == '2.13.0+cu130'
    assert setup.fixed == ['numpy', 'torch==2.13.0']


def test_key_tells_what_does_not_fit(module, monkeypatch):
    """Two builds share a key only if one can stand for the other."""

    def keys():
        yield module.wheel_key('mmcv==2.1.0', FACTS)
        yield module.wheel_key('onedl-mmcv==2.1.0', FACTS)
        yield module.wheel_key('mmcv==2.1.1', FACTS)
        yield module.wheel_key('mmcv==2.1.0', dict(FACTS, torch='2.13.0'))
        for device, gpus in (('cuda', []), ('cuda', ['9.0']), ('cuda', ['8.6'])):
            yield module.wheel_key(
                'mmcv==2.1.0', dict(FACTS, torch='2.13.0', device=device, gpus=gpus)
            )

    here = list(keys())
    monkeypatch.setattr(module.sys.implementation, 'cache_tag', 'cpython-39')
    here += keys()
    monkeypatch.setattr(module.sysconfig, 'get_platform', lambda: 'other')
    here += keys()
    assert len(set(here)) == 21
    assert all('/' not in key for key in here)


@pytest.fixture
def setup(module, monkeypatch):
    """A set-up whose commands are written down instead of run.

    `setup.works` are the parts of names of wheels that would import.
    """
    setup = module.Setup()
    setup.venv.mkdir()
    setup.done, setup.works, current = [], ['built'], []

    def pip(what, *args, **kwargs):
        setup.done.append(what)
        current[:] = [str(args[-1])]

    def call(what, argv, **kwargs):
        setup.done.append(what)
        if 'download' in argv:
            folder = Path(argv[argv.index('--dest') + 1])
            source = folder / 'mmcv-2.1.0'
            source.mkdir(parents=True)
            (source / 'setup.py').touch()
            shutil.make_archive(str(source), 'gztar', folder, source.name)
            shutil.rmtree(source)
        elif 'wheel' in argv:
            setup.build_env = kwargs['env']
            assert Path(argv[-1], 'setup.py').is_file()
            if 'break off' in setup.works:
                (Path(argv[-1]) / 'half.o').touch()
                raise KeyboardInterrupt
            out = Path(argv[argv.index('--wheel-dir') + 1])
            out.mkdir()
            (out / 'built.whl').touch()

    monkeypatch.setattr(setup, 'pip', pip)
    monkeypatch.setattr(setup, 'call', call)
    monkeypatch.setattr(
        setup,
        'runs',
        lambda code: (
            any(part in current[0] for part in setup.works) if current else False
        ),
    )
    monkeypatch.setattr(module, 'check_compiler', dict)
    return setup


def test_mmcv_is_built_once_for_all_clones(module, setup):
    setup.install_mmcv(FACTS, None)
    assert [what for what in setup.done if 'compiling' in what]
    (kept,) = setup.wheels.glob('*/*.whl')
    assert kept.parent.name == module.wheel_key('mmcv==2.1.0', FACTS)
    assert not (setup.wheels.parent / 'build' / kept.parent.name).exists()
    assert setup.build_env['MMCV_WITH_OPS'] == '1'
    assert setup.build_env['FORCE_CUDA'] == '0'
    assert '-g0' in setup.build_env['CFLAGS']

    setup.done.clear()
    setup.install_mmcv(FACTS, None)  # the same clone: nothing to do
    assert not setup.done
    setup.stamp.unlink()
    setup.install_mmcv(FACTS, None)  # as another clone: the kept wheel
    assert len(setup.done) == 1 and str(setup.wheels) in setup.done[0]
    setup.done.clear()
    setup.install_mmcv(dict(FACTS, torch='2.12.0'), None)
    assert any('compiling' in what for what in setup.done)


def test_prebuilt_mmcv_is_preferred(module, setup):
    setup.works = ['mmcv==2.1.0']
    setup.install_mmcv(FACTS, 'https://a.page/')
    assert setup.done == ['mmcv==2.1.0, prebuilt']
    assert json.loads(setup.stamp.read_text())['mmcv'] == module.wheel_key(
        'mmcv==2.1.0', FACTS
    )


def test_wheels_that_do_not_import_are_discarded(module, setup):
    bad = setup.wheels / module.wheel_key('mmcv==2.1.0', FACTS) / 'bad.whl'
    bad.parent.mkdir(parents=True)
    bad.touch()
    setup.install_mmcv(FACTS, 'https://a.page/')
    assert not bad.exists()
    assert 'prebuilt' in setup.done[1] and 'compiling' in setup.done[3]
    setup.works = []
    setup.stamp.unlink()
    assert 'does not import' in stopped(module, setup.install_mmcv, FACTS, None)


def test_interrupted_build_goes_on(setup):
    setup.works += ['break off']
    with pytest.raises(KeyboardInterrupt):
        setup.install_mmcv(FACTS, None)
    assert not list(setup.wheels.glob('*/*.whl'))
    (half,) = setup.wheels.parent.glob('build/*/source/half.o')
    setup.works.remove('break off')
    setup.done.clear()
    setup.install_mmcv(FACTS, None)
    assert not any('source' in what for what in setup.done)  # kept
    assert list(setup.wheels.glob('*/*.whl'))


def test_interrupted_installation_starts_anew(module, monkeypatch):
    setup = module.Setup()
    made = []
    monkeypatch.setattr(setup, 'runs', lambda code: True)

    def call(what, argv, **kwargs):
        if 'venv' in argv:
            made.append(what)
            setup.venv.mkdir()
        elif 'torch' in argv:
            raise module.Stop('cut off')

    monkeypatch.setattr(setup, 'call', call)
    setup.make_venv('cpu')
    assert len(made) == 1
    setup.pip('x', 'numpy')
    setup.make_venv('cpu')
    assert len(made) == 1  # sound: kept
    stopped(module, setup.pip, 'x', 'torch')
    (setup.venv / 'half-a-torch').touch()
    setup.make_venv('cpu')
    assert len(made) == 2 and not (setup.venv / 'half-a-torch').exists()
    setup.mark(python='3.8')
    setup.make_venv('cpu')
    assert len(made) == 3  # of another Python


def test_ready_until_something_changes(module, monkeypatch, tmp_path):
    """Judged by what is installed, not by what was written down alone."""
    setup = module.Setup()
    site = tmp_path / 'site'
    info = site / 'mmcv-2.1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text('Name: mmcv\nVersion: 2.1.0\n')
    package = module.ROOT / 'mobilevig_det'
    package.mkdir()
    (package / '__init__.py').touch()
    setup.python = sys.executable
    setup.env['PYTHONPATH'] = f'{site}{os.pathsep}{module.ROOT}'
    setup.venv.mkdir()
    assert not setup.is_ready()
    setup.mark(fingerprint=setup.fingerprint(), versions={'mmcv': '2.1.0'})
    assert setup.is_ready()
    (info / 'METADATA').write_text('Name: mmcv\nVersion: 2.2.0\n')
    assert not setup.is_ready()
    (info / 'METADATA').write_text('Name: mmcv\nVersion: 2.1.0\n')
    assert setup.is_ready()
    requirements = module.ROOT / 'requirements' / 'openmmlab.txt'
    requirements.write_text(requirements.read_text().replace('0.10.7', '1'))
    assert not module.Setup().is_ready()
    setup.python = str(tmp_path / 'gone')  # the Python under it was removed
    assert not setup.is_ready() and not setup.runs('')
    setup.python = sys.executable
    assert setup.is_ready()
    package.rename(tmp_path / 'mobilevig_det')  # the clone was moved
    assert not setup.is_ready()


def test_two_set_ups_take_turns(module, capfd):
    order = []

    def second():
        with module.locked():
            order.append('second')

    with module.locked():
        thread = threading.Thread(target=second)
        thread.start()
        for _ in range(100):
            time.sleep(0.01)
            out = capfd.readouterr().out
            if out:
                break
        assert 'waiting' in out
        order.append('first')
    thread.join(10)
    assert order == ['first', 'second']


def test_progress_tells_how_far(module, capfd, monkeypatch):
    monkeypatch.setattr(module.Progress.__init__, '__defaults__', (0,))
    program = (
        'import time\n'
        'for i in range(1, 4):\n'
        '    print(f"  [{i}/77] c++ x.cpp", flush=True)\n'
        'time.sleep(2.2)'
    )
    module.Setup().call('mmcv', [sys.executable, '-c', program])
    assert re.search('mmcv, 3 of 77 files, 0:0[2-9]', capfd.readouterr().out)


@pytest.mark.skipif(not shutil.which('make'), reason='no make')
@pytest.mark.parametrize(
    'variables, expected',
    [
        (['PYTHON=no-such-python'], 'no no-such-python: install Python 3.10'),
        (['STACK=mm', 'PYTHON=a b/python'], 'take openmmlab or onedl'),
    ],
)
def test_make_says_it_on_one_line(variables, expected, tmp_path):
    (tmp_path / 'a b').mkdir()
    (tmp_path / 'a b' / 'python').symlink_to(sys.executable)
    variables = [v.replace('a b', str(tmp_path / 'a b')) for v in variables]
    done = subprocess.run(
        ['make', 'test', *variables], cwd=ROOT, text=True, capture_output=True
    )
    lines = done.stderr.splitlines()
    assert done.returncode and expected in lines[0]
    assert len(lines) == 2 and 'Makefile' in lines[1]  # make's own last word
