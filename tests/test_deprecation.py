"""Names of 0.2 that keep working, with a DeprecationWarning."""

import importlib
import pkgutil
import sys
import warnings

import mobilevig_det.engine as engine
from mobilevig_det.deprecation import MOVED, deprecated_type
from mobilevig_det.errors import UserError

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, LOOPS, VISBACKENDS, Registry

RENAMED = [
    (HOOKS, 'WinogradHook', 'CpuFastPathsHook'),
    (LOOPS, 'SurvivingEpochTrainLoop', 'ResumableEpochTrainLoop'),
    (LOOPS, 'SurvivingIterTrainLoop', 'ResumableIterTrainLoop'),
    (VISBACKENDS, 'SurvivingLocalVisBackend', 'FaultTolerantLocalVisBackend'),
]


class Threshold:
    def __init__(self, low, high=1):
        self.low, self.high = low, high


def test_deprecated_type_warns_and_builds_the_new_type():
    registry = Registry('things')
    registry.register_module(module=Threshold)
    old = deprecated_type('Limit', Threshold, registry)
    with pytest.warns(DeprecationWarning, match='Limit is deprecated.*use Threshold'):
        built = registry.build(dict(type='Limit', low=3, high=4))
    assert isinstance(built, Threshold) and isinstance(built, old)
    assert (built.low, built.high) == (3, 4)


def test_new_type_does_not_warn():
    registry = Registry('things')
    registry.register_module(module=Threshold)
    deprecated_type('Limit', Threshold, registry)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        registry.build(dict(type='Threshold', low=3))


@pytest.mark.parametrize('registry, old, new', RENAMED)
def test_old_type_names_are_found_in_both_ways(registry, old, new):
    for name in (old, f'mobilevig_det.engine.{old}'):
        found = registry.get(name)
        assert found is getattr(engine, old)
        assert issubclass(found, registry.get(new))
        assert found is not registry.get(new)


def test_old_vis_backend_warns(tmp_path):
    with pytest.warns(DeprecationWarning, match='FaultTolerantLocalVisBackend'):
        VISBACKENDS.build(dict(type='SurvivingLocalVisBackend', save_dir=str(tmp_path)))


def test_old_base_config_is_the_new_one(tmp_path):
    def load(name):
        path = tmp_path / f'inherits_{name}'
        path.write_text(f"_base_ = 'mobilevig_det::_base_/{name}'\n")
        return Config.fromfile(str(path))

    with pytest.warns(DeprecationWarning, match=r'surviving.*default_runtime\.py'):
        old = load('surviving.py')
    with warnings.catch_warnings():
        warnings.simplefilter('error', DeprecationWarning)
        new = load('default_runtime.py')
    assert old.to_dict() == new.to_dict()


@pytest.mark.parametrize('old_name', sorted(MOVED))
def test_moved_names_can_be_imported_with_a_warning(old_name):
    new = pkgutil.resolve_name(MOVED[old_name])
    module, _, name = old_name.rpartition('.')
    message = f'{old_name} is deprecated .* use {MOVED[old_name]}'
    with pytest.warns(DeprecationWarning, match=message) as found:
        sys.modules.pop(old_name, None)  # a module warns when it is first imported
        exec(f'from {module} import {name}', scope := {})
    assert scope[name] is new
    assert found[0].filename == '<string>'  # the line that imports it


def test_moved_modules_keep_their_own_names():
    with pytest.warns(DeprecationWarning):
        sys.modules.pop('mobilevig_det.structures.mask', None)
        old = importlib.import_module('mobilevig_det.structures.mask')
    assert old.__name__ == old.__spec__.name == 'mobilevig_det.datasets.loading'


@pytest.mark.parametrize(
    'name', ['mobilevig_det.apis.nothing', 'mobilevig_det.nothing', 'nothing']
)
def test_other_names_are_missing_as_before(name):
    with pytest.raises(ImportError):
        importlib.import_module(name)
    module, _, attribute = name.rpartition('.')
    with pytest.raises(ImportError, match=f'cannot import name {attribute!r}'):
        exec(f'from {module or "mobilevig_det"} import {attribute}')


def test_old_command_decorator_ends_a_program_with_one_message(monkeypatch):
    with pytest.warns(DeprecationWarning, match='explain_errors'):
        from mobilevig_det.apis import command

    @command
    def main(argv, more):
        raise UserError(f'{argv} {more}')

    monkeypatch.setattr(sys, 'argv', ['mine.py'])
    with pytest.raises(SystemExit, match='^mine.py: given too$'):
        main('given', more='too')
