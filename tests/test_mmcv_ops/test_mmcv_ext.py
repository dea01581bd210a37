"""The stand-in for mmcv's extension."""

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import mmcv_ext, mmcv_stand_in, use_compiled, use_on_cpus

import mmcv.ops
import pytest
import torch
from mmcv_reference import load_cases, needs_compiled_mmcv

BOXES = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
SCORES = torch.tensor([0.5, 0.6, 0.4])


def names_in_mmcv():
    """All that mmcv.ops loads."""
    for path in Path(mmcv.ops.__file__).parent.glob('*.py'):
        for names in re.findall(
            r'load_ext\(\s*\S+,\s*\[(.*?)\]', path.read_text(), re.S
        ):
            yield from re.findall(r'\w+', names)


def test_every_name_is_there():
    names = set(names_in_mmcv())
    assert len(names) > 60 and set(mmcv_ext.OPERATORS) <= names
    for name in names:
        assert callable(getattr(mmcv_stand_in, name))
        assert callable(getattr(mmcv_ext, name))
    for module in (mmcv_ext, mmcv_stand_in):
        assert not hasattr(module, '__path__')


@pytest.mark.parametrize('name', ['voxelize', 'nms_rotated', 'convex_iou'])
def test_missing_operators_are_named(name):
    said = f"'{name}'.*Those of mobilevig_det are nms, .*rotated.*out of.*install.md"
    with pytest.raises(UserError, match=said):
        getattr(mmcv_stand_in, name)(1, 2, key=3)


def test_version_reports_of_mmcv_work():
    assert mmcv_stand_in.get_compiler_version() == 'n/a'
    assert mmcv_stand_in.get_compiling_cuda_version() == 'n/a'


def test_stand_in_forwards_all_calls():
    for nms in (mmcv_stand_in.nms, mmcv_ext.nms):
        assert nms(BOXES, SCORES, iou_threshold=0.5, offset=0).tolist() == [1, 2]
    assert mmcv_stand_in.nms is mmcv_stand_in.nms


@pytest.fixture
def compiled(monkeypatch):
    """A compiled extension, as far as anybody looks at it."""
    module = ModuleType('mmcv._ext')
    module.__file__ = '/somewhere/mmcv/_ext.cpython-311-x86_64-linux-gnu.so'
    for name in ('nms', 'voxelize'):
        setattr(module, name, lambda *args, name=name, **kwargs: f'compiled {name}')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', module)
    return module


def test_compiled_operators_are_used_until_use_on_cpus(compiled):
    arguments = dict(iou_threshold=0.5, offset=0)
    assert mmcv_ext.is_compiled() and mmcv_ext.in_use() == "compiled mmcv's"
    assert compiled.nms(BOXES, SCORES, **arguments) == 'compiled nms'
    for _ in range(2):
        use_on_cpus()
        assert compiled.nms(BOXES, SCORES, **arguments).tolist() == [1, 2]
        elsewhere = BOXES.to('meta'), SCORES.to('meta')
        assert compiled.nms(*elsewhere, **arguments) == 'compiled nms'
    assert compiled.voxelize(BOXES) == 'compiled voxelize'
    assert not hasattr(compiled, 'softnms')  # nothing is added
    assert 'on CPUs mobilevig_det' in mmcv_ext.in_use()


def test_operators_are_switched_back_by_name(compiled):
    compiled.softnms = compiled.voxelize
    use_on_cpus()
    use_compiled('nms')
    assert compiled.nms(BOXES) == 'compiled nms'
    assert compiled.softnms.compiled and 'on CPUs' in mmcv_ext.in_use()
    use_compiled()
    assert compiled.softnms(BOXES) == 'compiled voxelize'
    assert mmcv_ext.in_use() == "compiled mmcv's"
    use_compiled('nms')  # changes nothing
    with pytest.raises(UserError, match='got nms2, but the operators are nms'):
        use_compiled('nms2')


def test_without_compiled_nothing_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', mmcv_stand_in)
    use_on_cpus()
    assert mmcv_ext.in_use() == "mobilevig_det's (mmcv has none)"


@pytest.mark.skipif(mmcv_ext.is_compiled(), reason='mmcv has operators of its own')
def test_batched_nms_of_mmcv():
    inputs = load_cases('mmcv_ops.npz', 'nms')
    for name, case in load_cases('mmcv_ops.npz', 'batched_nms').items():
        group = inputs[f'{name}_off0_t0.7']
        found, kept = mmcv.ops.batched_nms(
            group['boxes'],
            group['scores'],
            case['ids'],
            dict(type='nms', iou_threshold=0.5),
        )
        assert kept.tolist() == case['keep'].tolist()
        assert torch.equal(found, case['dets'])


class Torchvision:
    """The operators of torch.ops.torchvision, which record their calls."""

    def __init__(self):
        self.asked = []

    def nms(self, boxes, scores, threshold):
        self.asked.append('nms')
        return mmcv_ext._nms.nms(boxes, scores, threshold, 0)

    def roi_align(self, x, rois, scale, height, width, ratio, aligned):
        self.asked.append('roi_align')
        out = x.new_zeros(len(rois), x.shape[1], height, width)
        mmcv_ext._roi_align.roi_align_forward(
            x, rois, out, out, out, height, width, scale, ratio, 1, aligned
        )
        return out

    def _roi_align_backward(
        self, grad, rois, scale, height, width, b, c, h, w, ratio, aligned
    ):
        self.asked.append('_roi_align_backward')
        out = grad.new_zeros(b, c, h, w)
        mmcv_ext._roi_align.roi_align_backward(
            grad, rois, out, out, out, height, width, scale, ratio, 1, aligned
        )
        return out


def test_torchvision_is_preferred_on_cuda(monkeypatch):
    """With the CPU in the place of CUDA."""
    torchvision = Torchvision()
    monkeypatch.setattr(mmcv_ext, 'torchvision_ops', lambda: torchvision)
    assert not mmcv_ext.has_torchvision(BOXES)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 8)
    rois = torch.cat([torch.tensor([[0.0], [1], [1]]), BOXES], 1)
    arguments = dict(
        aligned_height=2,
        aligned_width=3,
        spatial_scale=0.25,
        sampling_ratio=2,
        pool_mode=1,
        aligned=True,
    )

    def run():
        out, grad = x.new_zeros(3, 3, 2, 3), torch.ones_like(x)
        mmcv_ext.roi_align_forward(x, rois, out, out, out, **arguments)
        mmcv_ext.roi_align_backward(out, rois, out, out, grad, **arguments)
        return out, grad, mmcv_ext.nms(BOXES, SCORES, 0.5, 0)

    expected = run()
    assert not torchvision.asked
    monkeypatch.setattr(mmcv_ext, 'has_torchvision', lambda tensor: True)
    for a, b in zip(run(), expected):
        torch.testing.assert_close(a, b)
    assert torchvision.asked == ['roi_align', '_roi_align_backward', 'nms']
    mmcv_ext.nms(BOXES, SCORES, 0.5, 1)  # which it doesn't have
    assert torchvision.asked.count('nms') == 1


@needs_compiled_mmcv
@pytest.mark.parametrize(
    'name',
    [n for n in mmcv_ext.OPERATORS if not n.startswith(('nms', 'roi', 'masked'))],
)
def test_operators_take_the_arguments_of_compiled_mmcv(name):
    from mmcv import _ext

    # Its first line is "name(argument: type, ...) -> type".
    line = getattr(_ext, name).__doc__.splitlines()[0]
    theirs = re.findall(r'(\w+): ', line)
    assert theirs
    ours = mmcv_ext.OPERATORS[name]
    assert list(inspect.signature(ours).parameters) == theirs
