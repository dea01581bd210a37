"""Graph steps of the sibling backbones in files for any size, against definitions."""

from mobilevig_det.backbones.adaptvig import GlobalAttention
from mobilevig_det.errors import UserError
from mobilevig_det.export import load
from mobilevig_det.export.onnx import write_onnx_backbone
from mobilevig_det.export.openvino import write_openvino
from mobilevig_det.ops import cross_max, gated_max, thresholded_max

import naive_graph_steps as naive
import numpy as np
import pytest
import torch
from tiny_backbone import METADATA
from torch import nn

STEPS = dict(
    cross_max=(cross_max, naive.cross_max, ()),
    thresholded_max=(
        thresholded_max,
        lambda x, stride: naive.thresholded_max(x, stride)[0],
        (),
    ),
    gated_max=(gated_max, naive.gated_max, (torch.tensor(-4.0),)),
)
# One pixel; sides of K, of less, of a multiple, of a power of 2, and of none.
SIZES = ((1, 1), (1, 7), (2, 2), (3, 9), (4, 3), (6, 8), (8, 2), (17, 5), (16, 33))
STRIDE = 3


class Step(nn.Module):
    def __init__(self, function, more):
        super().__init__()
        self.function, self.more = function, nn.ParameterList(more)

    def forward(self, x):
        return (self.function(x, *self.more, STRIDE),)


@pytest.fixture(scope='module', params=STEPS)
def step(request, tmp_path_factory):
    """The step as it is defined, and its files in their runtimes."""
    function, defined, more = STEPS[request.param]
    path = tmp_path_factory.mktemp(request.param) / 'step.onnx'
    return lambda x: defined(x, *more, STRIDE), sessions(Step(function, more), path)


def sessions(model, path):
    write_onnx_backbone(model.eval(), path, None, METADATA)
    if isinstance(model, Step) and model.function is thresholded_max:
        with pytest.raises(UserError, match='loops of a GreedyViG'):
            write_openvino(path, path.with_suffix('.xml'), METADATA)
        return [load(path)]
    write_openvino(path, path.with_suffix('.xml'), METADATA)
    return [load(path.with_suffix(suffix)) for suffix in ('.onnx', '.xml')]


def assert_near(session, x, expected):
    found = session(image=x.numpy())['map0']
    assert found.shape == x.shape
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', SIZES)
def test_equals_the_definition(step, size):
    defined, files = step
    x = torch.randn(1, 3, *size, generator=torch.manual_seed(0))
    expected = defined(x)
    for session in files:
        assert_near(session, x, expected)


def test_few_pixels(step):
    """Where a mean of n - 1 is another one than of n; many maps, for a distance to
    lie between the thresholds that these give."""
    defined, files = step
    for seed in range(40):
        x = torch.randn(1, 3, 4, 4, generator=torch.manual_seed(seed))
        expected = defined(x)
        for session in files:
            assert_near(session, x, expected)


def test_equal_distances(step):
    """Each is the threshold, to the bit, and admits nothing: or 0, as it is, too."""
    defined, files = step
    stripes = torch.arange(6.0).remainder(2).expand(1, 3, 6, 6).contiguous()
    for x in (stripes, stripes.mT.contiguous(), torch.ones(1, 3, 4, 5)):
        expected = defined(x)
        for session in files:
            assert_near(session, x, expected)


def test_attention(tmp_path):
    torch.manual_seed(0)
    attention = GlobalAttention(16).eval()

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attention = nn.Conv2d(3, 16, 1), attention

        def forward(self, x):
            return self.conv(x), self.attention(self.conv(x))

    model = Maps()
    for session in sessions(model, tmp_path / 'attention.onnx'):
        for size in ((1, 1), (3, 2), (5, 7)):
            x = torch.randn(1, 3, *size)
            with torch.no_grad():
                expected = model(x)[1].numpy()
            found = session(image=x.numpy())['map1']
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
