import sys
from types import SimpleNamespace

import pytest


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A tiny generated data set: 8 + 4 images of 64 pixels."""
    from mobilevig_det.datasets.shapes import make_shapes

    return make_shapes(
        tmp_path_factory.mktemp('shapes'), num_train=8, num_val=4, size=64
    )


@pytest.fixture(scope='module', autouse=True)
def fresh_visualizer():
    """MMEngine keeps one visualizer a process, which would log and draw into
    the folder, and with the classes, of the file of tests before."""
    for module, name in (
        ('mmengine.visualization', 'Visualizer'),
        ('mmdet.visualization', 'DetLocalVisualizer'),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], name)._instance_dict.clear()


@pytest.fixture(scope='module', autouse=True)
def data_sets_collect_no_garbage():
    """MMEngine does for each one, which takes longer than a tiny training: 0.2 s for
    all that tests have imported. Python does by itself, when there is some."""
    if module := sys.modules.get('mmengine.dataset.base_dataset'):
        module.gc = SimpleNamespace(collect=int)


@pytest.fixture(scope='module')
def timm():
    """The library, with our models in its registry."""
    from torchvision_stand_in import import_with_stand_in

    timm = import_with_stand_in('timm')
    import mobilevig_det.timm_models  # noqa: F401

    return timm
