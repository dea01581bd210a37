"""Masked convolution, compared with a plain one at the pixels of the mask."""

import sys

from mobilevig_det.mmcv_ops import masked_conv

import pytest
import torch
from mmcv.ops import masked_conv2d


@pytest.fixture
def ours(monkeypatch):
    module = sys.modules['mmcv.ops.masked_conv']
    monkeypatch.setattr(module, 'ext_module', masked_conv)


@pytest.mark.parametrize(
    'size, kernel, padding',
    [
        ((1, 1), (1, 1), 0),
        ((1, 1), (3, 3), 1),
        ((5, 8), (3, 3), 1),
        ((6, 5), (1, 3), 0),
    ],
)
@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
def test_equals_a_plain_convolution_at_the_mask(ours, size, kernel, padding, share):
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(1, 3, *size),
        torch.randn(4, 3, *kernel),
        torch.ones(4),
    )
    whole = torch.nn.functional.conv2d(x, weight, bias, padding=padding)
    mask = torch.rand(1, *size) < share
    # Where the output is smaller than the mask, only what is in it can be asked.
    mask[:, whole.shape[2] :] = mask[:, :, whole.shape[3] :] = False
    found = masked_conv2d(x, mask, weight, bias, padding)
    inside = mask[:, None, : whole.shape[2], : whole.shape[3]]
    torch.testing.assert_close(found, whole * inside)
