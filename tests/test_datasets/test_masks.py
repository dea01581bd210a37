"""Run lengths as pycocotools writes them, masks as MMDetection's heads paste them."""

from mobilevig_det.datasets.masks import count_rle_pixels, encode_rle, paste_box_masks

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.models import FCNMaskHead
from mmdet.structures.mask import encode_mask_results
from mmengine.config import ConfigDict

SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7))


def reference_rle(masks):
    encoded = encode_mask_results(masks)
    return [dict(rle, counts=rle['counts'].decode()) for rle in encoded]


@settings(deadline=None, max_examples=300)
@given(arrays(bool, SHAPES), st.tuples(*[st.integers(0, 40)] * 4))
def test_encode_rle_equals_pycocotools_with_any_margin(masks, margins):
    top, bottom, left, right = margins
    for padded in (masks, np.pad(masks, ((0, 0), (top, bottom), (left, right)))):
        assert encode_rle(padded) == reference_rle(padded)


@pytest.mark.parametrize('value', [False, True])
@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (480, 640), (1500, 1400)])
def test_encode_rle_of_constant_masks(shape, value):
    """Also of more than a million pixels, which take five groups of bits."""
    masks = np.full((2, *shape), value)
    assert encode_rle(masks) == reference_rle(masks)


def test_encode_rle_of_noise():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 173, 211)) < rng.random((6, 1, 1))
    for layout in (masks, masks.transpose(0, 2, 1), masks.astype(np.uint8)):
        assert encode_rle(layout) == reference_rle(layout)


def test_encode_rle_resizes_by_the_nearest_pixel():
    masks = np.random.default_rng(0).random((3, 40, 50)) < 0.5
    resized = [
        cv2.resize(mask.astype(np.uint8), (123, 77), interpolation=cv2.INTER_NEAREST)
        for mask in masks
    ]
    assert encode_rle(masks, (77, 123)) == reference_rle(np.stack(resized))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_count_rle_pixels_counts_what_pycocotools_encodes(height, width, seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    if seed % 3 == 0:  # long runs
        mask = np.kron(mask, np.ones((37, 29), np.uint8))
    counts = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
    assert count_rle_pixels(counts) == mask.size
    assert count_rle_pixels(counts[:-1]) != mask.size


@pytest.mark.parametrize(
    'counts', ['', 'é', [], ['a'], [[1], [2]], [-1, 5], [float('nan')], [None], '\n']
)
def test_count_rle_pixels_rejects_what_is_not_run_lengths(counts):
    assert count_rle_pixels(counts) <= 0


@pytest.mark.parametrize('number', [2, 20])
def test_paste_box_masks_equals_fcn_mask_head(number):
    """Also with boxes that reach outside the image, or have no area."""
    generator = torch.Generator().manual_seed(number)
    masks = torch.rand(number, 28, 28, generator=generator)
    boxes = torch.rand(number, 4, generator=generator) * 100 - 10
    boxes[:, 2:] = (boxes[:, :2] + boxes[:, 2:].clamp(min=0)).clamp(min=0)
    expected = FCNMaskHead(
        num_convs=0, num_classes=1, class_agnostic=True
    )._predict_by_feat_single(
        masks[:, None].numpy(),
        boxes.clone(),
        torch.zeros(number, dtype=torch.long),
        dict(ori_shape=(90, 110), scale_factor=(1.0, 1.0)),
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
        activate_map=True,
    )
    assert expected.any()
    pasted = paste_box_masks(masks, boxes, (90, 110), 0.5)
    assert pasted.dtype == torch.bool and torch.equal(pasted, expected)


def test_paste_box_masks_of_nothing():
    pasted = paste_box_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (9, 11), 0.5)
    assert pasted.shape == (0, 9, 11) and pasted.dtype == torch.bool
