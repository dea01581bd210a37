"""``mmcv.ops`` works with this package's operators in any order of imports.

Each program runs in its own process, with a copy of the installed mmcv that has no
extension, like mmcv-lite and onedl-mmcv built without operators. The processes are
forks of one that has imported the dependencies only.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / 'mobilevig_det' / 'mmcv_ops' / 'mmcv_stand_in.py'
FORKS = """
import json, os, sys, traceback
import cv2, matplotlib.pyplot, mmengine, pycocotools.coco, scipy.optimize, torch
assert not any(name in sys.modules for name in ('mmcv', 'mmdet', 'mobilevig_det'))
for line in sys.stdin:
    paths, program, errors = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            file = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            os.chdir(paths[0])
            sys.path[:0] = paths
            exec(program, dict(__name__='__main__'))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# One that we have, and one that we don't.
CALLS = """
import torch
from mmcv.ops import convex_iou, nms
boxes = torch.tensor([[0., 0., 9., 9.], [1., 0., 9., 9.], [20., 20., 29., 29.]])
keep = nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)[1]
assert keep.tolist() == [1, 2], keep
try:
    convex_iou(torch.zeros(1, 18), torch.zeros(1, 8))
except Exception as error:
    assert 'convex_iou' in str(error), error
else:
    raise AssertionError('it went through')
"""

# Layers whose methods are replaced, because they fail before they call an operator.
LAYERS = """
import sys
import torch
from mmcv.ops import CARAFENaive, RoIAlign, SyncBatchNorm
from mmengine.registry import MODELS
x = torch.randn(2, 4, 6, 6, requires_grad=True)
layer = MODELS.build(dict(type='MMSyncBN', num_features=4))
assert isinstance(layer, SyncBatchNorm)
torch.testing.assert_close(
    layer(x), torch.nn.functional.batch_norm(x, None, None, layer.weight, None, True)
)
sys.modules['torchvision'] = None
rois = torch.tensor([[0, 1.0, 1, 5, 5]])
pooled = [RoIAlign(2, use_torchvision=way)(x, rois) for way in (True, False)]
assert torch.equal(*pooled)
CARAFENaive(1, 1, 1)(x, torch.ones(2, 1, 6, 6)).sum().backward()
assert (x.grad == 1).all()
"""


@pytest.fixture(scope='module')
def lite(tmp_path_factory):
    """Return a folder with an mmcv that has no extension."""
    folder = tmp_path_factory.mktemp('lite')
    shutil.copytree(
        Path(find_spec('mmcv').origin).parent,
        folder / 'mmcv',
        ignore=shutil.ignore_patterns('_ext*', '__pycache__'),
    )
    return folder


@pytest.fixture
def with_file(lite):
    """Return the same folder with the file that the wheel installs."""
    file = lite / 'mmcv' / '_ext.py'
    shutil.copyfile(STAND_IN, file)
    yield lite
    file.unlink()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a function that runs a program with a folder first in sys.path.

    It returns the exit code and the errors."""
    errors = tmp_path_factory.mktemp('errors') / 'stderr'
    forks = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', FORKS],
        env=dict(os.environ, PYTHONPATH=''),
        cwd=errors.parent,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def run(folder, program):
        print(
            json.dumps([[str(folder), str(ROOT)], program, str(errors)]),
            file=forks.stdin,
            flush=True,
        )
        return int(forks.stdout.readline()), errors.read_text()

    with forks:
        yield run
        forks.stdin.close()


@pytest.fixture(scope='module')
def succeeds(run):
    def succeeds(folder, program):
        code, error = run(folder, program)
        assert code == 0, error

    return succeeds


def test_mmcv_alone_has_no_operators(lite, run):
    """Otherwise the tests below would prove nothing."""
    code, error = run(lite, 'import mmcv.ops')
    assert code and "No module named 'mmcv._ext'" in error


def test_mobilevig_det_imported_first(lite, succeeds):
    succeeds(lite, 'import mobilevig_det' + CALLS)


def test_mmcv_imported_first(lite, succeeds):
    """Without mmcv.ops, which can't be imported yet."""
    succeeds(lite, 'import mmcv, mmdet\nimport mobilevig_det' + CALLS)


def test_mobilevig_det_imported_after_mmcv_ops_failed(lite, succeeds):
    succeeds(
        lite,
        'try:\n'
        '    import mmcv.ops\n'
        'except ModuleNotFoundError:\n'
        '    import mobilevig_det\n' + CALLS,
    )


def test_layers_work_whose_methods_are_replaced(lite, succeeds):
    succeeds(lite, 'import mobilevig_det' + LAYERS)


def test_installed_file_replaces_methods_without_mobilevig_det(with_file, succeeds):
    succeeds(
        with_file,
        'import mmcv.ops, sys\n'
        'assert not any(name.startswith("mobilevig_det") for name in sys.modules)'
        + LAYERS,
    )


def test_stand_in_looks_like_an_imported_module(lite, succeeds):
    succeeds(
        lite,
        'import importlib.util, mobilevig_det, mmcv, sys\n'
        'import mmcv._ext\n'
        'assert mmcv._ext is sys.modules["mmcv._ext"]\n'
        'assert importlib.util.find_spec("mmcv._ext")\n'
        'from mobilevig_det.mmcv_ops import provide_mmcv_ext\n'
        'assert not provide_mmcv_ext()\n'
        'assert not hasattr(mmcv._ext, "__all__")\n'
        'assert mmcv._ext.nms is mmcv._ext.nms\n',
    )


def test_installed_file_works_without_importing_mobilevig_det(with_file, succeeds):
    succeeds(
        with_file,
        'import sys\n'
        'import mmcv.ops\n'
        'from mmcv.ops import nms, RoIAlign, DeformConv2d\n'
        'assert not any(name.startswith("mobilevig_det") for name in sys.modules)'
        + CALLS,
    )


def test_installed_file_works_in_mmdetections_own_tools(with_file, tmp_path, succeeds):
    """They import MMDetection's models before the config with custom_imports."""
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mobilevig_det'])\n")
    succeeds(
        with_file,
        'import sys\n'
        'import mmdet.models\n'
        'assert "mobilevig_det" not in sys.modules\n'
        'from mmengine.config import Config\n'
        f'Config.fromfile({str(config)!r})\n'
        'from mmdet.registry import MODELS\n'
        'MODELS.build(dict(type="MobileViG", arch="ti"))\n' + CALLS,
    )


def test_installed_file_imports_nothing(tmp_path):
    """Neither torch nor mmcv nor mobilevig_det."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    shutil.copyfile(STAND_IN, tmp_path / 'mmcv' / '_ext.py')
    done = subprocess.run(
        [sys.executable, '-S', '-c', 'from mmcv._ext import nms, softnms'],
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
    )
    assert done.returncode == 0


def test_compiled_extension_is_preferred(with_file, run, succeeds):
    """Python chooses by the name, so that an empty file is enough."""
    compiled = with_file / 'mmcv' / f'_ext{EXTENSION_SUFFIXES[0]}'
    compiled.touch()
    try:
        succeeds(
            with_file,
            'from importlib.util import find_spec\n'
            f'assert find_spec("mmcv._ext").origin == {str(compiled)!r}',
        )
        code, error = run(with_file, 'import mobilevig_det')
        assert code and 'compiled for another torch' in error
    finally:
        compiled.unlink()


def test_other_extensions_are_left_alone(lite, succeeds):
    file = lite / 'mmcv' / '_ext.py'
    file.write_text('def __getattr__(name):\n    return len\nnms = len\n')
    try:
        succeeds(
            lite,
            'import mobilevig_det, mmcv.ops\n'
            'from mobilevig_det.mmcv_ops import provide_mmcv_ext\n'
            'assert not provide_mmcv_ext()\n'
            'assert mmcv._ext.nms is len',
        )
    finally:
        file.unlink()
