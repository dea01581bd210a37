"""Fixtures for all tests. What changes global state says why."""

import importlib
import os
import signal
import sys
from types import SimpleNamespace

import pytest

# Packages that `make env` leaves out: torchvision does not import beside a CPU build of
# torch, and .ci/run installs moto if it can.
NOT_IN_ENVIRONMENT = ('moto', 'torchvision')


def import_required(name, *args, **kwargs):
    """Import a package that `make test` installs; skip only for NOT_IN_ENVIRONMENT."""
    if name.partition('.')[0] in NOT_IN_ENVIRONMENT:
        return importorskip(name, *args, **kwargs)
    return importlib.import_module(name)


# Otherwise a broken environment would only show as a few more skipped tests. Set here,
# because test files call it while they are collected.
importorskip = pytest.importorskip
if os.environ.get('REQUIRE_PACKAGES'):
    pytest.importorskip = import_required


# Shells start background jobs with SIGINT ignored, and the programs that the tests
# start would inherit that: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='module', autouse=True)
def same_environment():
    """Restore the environment variables after each file.

    Our commands set some for their process, which the tests of the next file would see:
    which file that is depends on how the files are distributed among the processes.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A generated data set of 8 + 4 images of 64x64 pixels, shared by all tests."""
    from mobilevig_det.datasets.shapes import make_shapes

    return make_shapes(
        tmp_path_factory.mktemp('shapes'), num_train=8, num_val=4, size=64
    )


@pytest.fixture(scope='module', autouse=True)
def fresh_visualizer():
    """Forget MMEngine's visualizer, of which it keeps one per process.

    Otherwise it would log and draw into the folder of an earlier test file, with the
    classes of its data set.
    """
    for module, name in (
        ('mmengine.visualization', 'Visualizer'),
        ('mmdet.visualization', 'DetLocalVisualizer'),
        ('mobilevig_det.inference.visualization', 'DetectionVisualizer'),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], name)._instance_dict.clear()


@pytest.fixture(scope='module', autouse=True)
def no_explicit_garbage_collection():
    """Don't let MMEngine's data sets call gc.collect() when they are built.

    With all that the tests have imported it takes 0.2 s, longer than a tiny training.
    Python's own garbage collection stays on.
    """
    if module := sys.modules.get('mmengine.dataset.base_dataset'):
        module.gc = SimpleNamespace(collect=int)


@pytest.fixture(scope='module')
def timm():
    """timm with our models in its registry."""
    from torchvision_stand_in import import_with_stand_in

    timm = import_with_stand_in('timm')
    import mobilevig_det.timm_models  # noqa: F401

    return timm
