"""The console script, ``python -m mobilevig_det`` and the files of tools/."""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec

from benchmarks import backbones as benchmarked
from benchmarks import command as benchmark
from mobilevig_det import backbones, cli
from mobilevig_det.checkpoints import key_mapping
from mobilevig_det.cli import (
    CLONE_COMMANDS,
    COMMANDS,
    arguments,
    convert_checkpoint,
    export,
)
from mobilevig_det.config import load_config
from mobilevig_det.engine.launch import LAUNCHERS
from mobilevig_det.errors import UserError
from mobilevig_det.export import FORMATS
from reproduction import command as reproduce
from reproduction.figures import FIGURES

import pytest
from mmengine.config import Config, DictAction
from tool import TOOLS

SLOW = ('torch', 'mmdet', 'mmengine', 'mmcv', 'numpy')
# Run a command as the console script does, and print which slow modules it imported.
CONSOLE_SCRIPT = f"""
import sys
from mobilevig_det_cli import main
try:
    main()
finally:
    print('imported', [name for name in {SLOW} if name in sys.modules])
"""
AFTER_PARSING = """
import sys
import mobilevig_det_cli
from unittest import mock

sys.argv = ['mobilevig_det', 'env']
with mock.patch('builtins.print'):
    mobilevig_det_cli.main()
import mobilevig_det
from mobilevig_det import MobileViG
from mmdet.registry import MODELS
assert MODELS.get('MobileViG') is MobileViG is mobilevig_det.MobileViG
assert MODELS.get('mobilevig_det.MobileViG') is MobileViG
"""
REGISTERED_BY_IMPORT = """
import mobilevig_det
from mmdet.registry import MODELS
assert MODELS.get('MobileViG').__name__ == 'MobileViG'
import mmcv.ops
"""
SPAWN = """
import multiprocessing
from mobilevig_det_cli import main

def registered():
    import mobilevig_det, sys
    assert 'mobilevig_det.registration' in sys.modules

if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=registered)
    process.start()
    process.join()
    assert process.exitcode == 0
"""


def python(*args):
    return subprocess.run(
        [sys.executable, *map(str, args)], text=True, capture_output=True
    )


@pytest.mark.parametrize('name', sorted(COMMANDS.keys() - {'run-onnx'}))
def test_arguments_are_parsed_before_slow_imports(name):
    done = python('-c', CONSOLE_SCRIPT, name, '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'usage: mobilevig_det {name} ')
    assert done.stdout.endswith('imported []\n')
    done = python('-c', CONSOLE_SCRIPT, name.replace('-', '_'), '--no-such-flag')
    assert done.returncode == 2
    assert f'mobilevig_det {name}: error: ' in done.stderr
    assert done.stdout == 'imported []\n'


@pytest.mark.parametrize(
    'start', [['-m', 'mobilevig_det', 'train'], ['tools/train.py']]
)
def test_every_way_to_start_a_command_parses_first(start):
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', *start, '--no-such-flag'],
        cwd=TOOLS.parent,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'argparse' in imported
    assert not imported.intersection(SLOW)


def test_tools_are_the_commands():
    for name in COMMANDS:
        stem = name.replace('-', '_')
        if name == 'run-onnx':  # a program of its own
            continue
        assert name in cli.ALIASES or find_spec(
            CLONE_COMMANDS.get(name, f'mobilevig_det.cli.{stem}')
        )
        text = (TOOLS / f'{stem}.py').read_text()
        assert f"main('{name}')" in text
        assert os.access(TOOLS / f'{stem}.py', os.X_OK)
    tools = {path.stem.replace('_', '-') for path in TOOLS.glob('*.py')}
    assert tools == set(COMMANDS)


def test_help_describes_every_command():
    done = python('-m', 'mobilevig_det', '--help')
    assert done.returncode == 0
    for name, text in COMMANDS.items():
        assert f'  {name} ' in done.stdout and text in done.stdout


@pytest.mark.parametrize(
    'argv, words',
    [
        ([], 'name a command'),
        (['trian'], "no command 'trian'. Is it 'train'?"),
        (['check_dat'], "Is it 'check-data'?"),
        (['xyz'], "no command 'xyz'\nCommands: train, "),
    ],
)
def test_unknown_command_is_a_usage_error(argv, words):
    done = python('-m', 'mobilevig_det', *argv)
    assert done.returncode == 2 and not done.stdout
    assert words in done.stderr


def test_run_onnx_is_a_command_without_torch():
    done = python('-c', CONSOLE_SCRIPT, 'run_onnx', '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: run_onnx.py')
    assert done.stdout.endswith("imported ['numpy']\n")


def test_commands_of_a_clone_say_so_where_there_is_none(monkeypatch):
    monkeypatch.setattr('mobilevig_det.cli.clone_root', lambda: None)
    for name in CLONE_COMMANDS:
        with pytest.raises(SystemExit, match='needs a clone of the repository'):
            cli.main(name)


@pytest.mark.parametrize(
    'program',
    [AFTER_PARSING, REGISTERED_BY_IMPORT],
    ids=['after a command', 'by import'],
)
def test_classes_are_registered(program):
    done = python('-W', 'ignore', '-c', program)
    assert done.returncode == 0, done.stderr


def test_spawned_processes_register(tmp_path):
    """Their main module is the script that imported the entry point."""
    (tmp_path / 'main.py').write_text(SPAWN)
    done = python('-W', 'ignore', tmp_path / 'main.py')
    assert done.returncode == 0, done.stderr


def test_choices_are_those_of_the_package():
    """Parsers name them themselves, as they can't import the modules that have them."""
    for name, archs in arguments.ARCHS.items():
        assert archs == tuple(getattr(backbones, name).arch_settings)
    assert benchmark.SIBLINGS == tuple(benchmarked.SIBLINGS)
    assert set(reproduce.FAMILIES) == {figure.family for figure in FIGURES}
    assert arguments.LAUNCHERS == ('none', *LAUNCHERS)
    assert export.FORMATS == tuple(FORMATS)
    assert convert_checkpoint.LAYOUTS == key_mapping.LAYOUTS


@pytest.mark.parametrize('words', [['a'], ['a=1', 'b']])
def test_cfg_options_without_a_value_are_a_usage_error(words, capsys):
    parser = argparse.ArgumentParser()
    arguments.add_cfg_options(parser)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['--cfg-options', *words])
    assert end.value.code == 2
    assert 'is not KEY=VALUE' in capsys.readouterr().err


def test_cfg_options_are_read_as_mmengine_reads_them(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('a = 0\nb = dict(c=0)\nd = 0\n')
    words = ['--cfg-options', 'a=1', 'b.c=[(1, 2.5), x]', '--cfg-options', 'd="e=f,g"']
    parser, reference = argparse.ArgumentParser(), argparse.ArgumentParser()
    arguments.add_cfg_options(parser)
    reference.add_argument('--cfg-options', nargs='+', action=DictAction)
    found = load_config(str(path), parser.parse_args(words).cfg_options)
    expected = Config.fromfile(path)
    expected.merge_from_dict(reference.parse_args(words).cfg_options)
    assert found.to_dict() == expected.to_dict()
    assert found.b.c == [(1, 2.5), 'x']
    with pytest.raises(UserError, match='--cfg-options: Imbalanced'):
        load_config(str(path), ['a=[1', 'b=2,(3'])


# A command that gets Ctrl-C at one moment.
INTERRUPTED = """
import argparse, atexit, os, signal, sys, types
import mobilevig_det_cli

moment = sys.argv.pop()

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)

def parse(argv):
    if moment == 'parsing':
        ctrl_c()
    return argparse.Namespace()

def work(args):
    if moment == 'working':
        ctrl_c()
    if moment == 'translated':
        try:
            ctrl_c()
        except KeyboardInterrupt:
            raise RuntimeError('DataLoader worker exited unexpectedly')
    if moment == 'forked':
        child = os.fork()
        if not child:
            ctrl_c()
        os.waitpid(child, 0)
        ctrl_c()
    if moment == 'exit':
        atexit.register(ctrl_c)

def main(argv):
    from mobilevig_det.cli.command import command
    command(parse, 'try again')(work)(argv)

class Import:
    def find_spec(name, path=None, target=None):
        if moment == name:
            try:
                ctrl_c()
            except BaseException:
                raise ImportError('swallowed') from None

sys.meta_path.insert(0, Import)
train = sys.modules['mobilevig_det.cli.train'] = types.ModuleType('train')
train.main = main
mobilevig_det_cli.main('train')
"""


@pytest.mark.parametrize(
    'moment', ['parsing', 'torch', 'mmdet', 'working', 'translated', 'forked', 'exit']
)
def test_ctrl_c_is_one_line_and_exit_code_130(moment):
    done = python('-W', 'ignore', '-c', INTERRUPTED, moment)
    hint = '; try again' if moment in ('working', 'translated', 'forked') else ''
    assert done.stderr == f'-c: stopped{hint}.\n'
    assert done.returncode == 130
