"""Run lengths to the byte as pycocotools writes them."""

from mobilevig_det.evaluation.run_lengths import encode_masks

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.structures.mask import encode_mask_results

SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None, max_examples=300)
@given(arrays(bool, SHAPES), st.tuples(*[st.integers(0, 40)] * 4))
def test_bytes_of_pycocotools(masks, margins):
    """Anything, with so much background around it."""
    top, bottom, left, right = margins
    for padded in (masks, np.pad(masks, ((0, 0), (top, bottom), (left, right)))):
        assert encode_masks(padded) == encode_mask_results(padded)


@pytest.mark.parametrize('value', [False, True])
@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (480, 640), (1500, 1400)])
def test_all_the_same(shape, value):
    """Also runs of more than a million pixels, which take five groups of bits."""
    masks = np.full((2, *shape), value)
    assert encode_masks(masks) == encode_mask_results(masks)


def test_ragged_edges():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 173, 211)) < rng.random((6, 1, 1))
    assert encode_masks(masks) == encode_mask_results(masks)
    assert encode_masks(masks.transpose(0, 2, 1)) == encode_mask_results(
        masks.transpose(0, 2, 1)
    )
