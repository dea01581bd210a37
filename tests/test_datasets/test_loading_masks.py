"""CompactBitmapMasks: every method as BitmapMasks', on sizes that hurt."""

import copy
import pickle

from mobilevig_det.datasets.loading import CompactBitmapMasks

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

SIDES = st.integers(1, 40)
SEEDS = st.integers(0, 10**6)
NUMBERS = st.integers(0, 5)


def pair(rng, number, height, width):
    """The same masks, of blobs within boxes: ours and MMDetection's."""
    masks = np.zeros((number, height, width), np.uint8)
    for mask in masks:
        (y1, y2), (x1, x2) = (
            np.sort(rng.integers(0, n + 1, 2)) for n in (height, width)
        )
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) > 0.3
    ours = CompactBitmapMasks.from_bitmaps(list(masks), height, width)
    return ours, BitmapMasks(masks, height, width)


def assert_same(ours, theirs):
    assert isinstance(ours, BitmapMasks)
    assert len(ours) == len(theirs)
    assert (ours.height, ours.width) == (theirs.height, theirs.width)
    assert ours.areas.dtype == theirs.areas.dtype
    np.testing.assert_array_equal(ours.areas, theirs.areas)
    assert torch.equal(ours.get_bboxes('hbox').tensor, theirs.get_bboxes('hbox').tensor)
    for dtype in (torch.uint8, torch.float16, torch.bool):
        assert torch.equal(ours.to_tensor(dtype, 'cpu'), theirs.to_tensor(dtype, 'cpu'))
    array = copy.deepcopy(ours).to_ndarray()
    assert array.dtype == theirs.masks.dtype and array.shape == theirs.masks.shape
    np.testing.assert_array_equal(array, theirs.masks)
    for one, other in zip(copy.deepcopy(ours), theirs):
        np.testing.assert_array_equal(one, other)


def step(name, rng, masks):
    """A call of the method, the same for the same state of ``rng``."""
    height, width = masks.height, masks.width
    shape = tuple(int(n) for n in rng.integers(1, 70, 2))
    if name == 'rescale':
        return masks.rescale(shape, rng.choice(['nearest', 'bilinear'], p=[0.8, 0.2]))
    if name == 'rescale by a factor':
        return masks.rescale(float(rng.uniform(0.9, 2)))
    if name == 'resize':
        return masks.resize(shape, rng.choice(['nearest', 'area'], p=[0.8, 0.2]))
    if name == 'flip':
        return masks.flip(rng.choice(['horizontal', 'vertical', 'diagonal']))
    if name == 'pad':
        more = rng.integers(0, 9, 2)
        return masks.pad(
            (height + int(more[0]), width + int(more[1])), int(rng.integers(2))
        )
    if name == 'crop':
        x, y = (np.sort(rng.integers(-5, n + 6, 2)) for n in (width, height))
        return masks.crop(np.array([x[0], y[0], x[1], y[1]]))
    if name == 'expand':
        more = [int(n) for n in rng.integers(0, 9, 4)]
        top, left, bottom, right = more
        return masks.expand(height + top + bottom, width + left + right, top, left)
    if name == 'translate':
        return masks.translate(shape, int(rng.integers(-9, 9)), 'vertical')
    if name == 'shear':
        return masks.shear((height, width), 0.3)
    if name == 'rotate':
        return masks.rotate((height, width), 30)
    if name == 'index':
        return masks[rng.random(len(masks)) > 0.3]
    if name == 'write' and len(masks):
        masks.masks[:, : height // 2] = 0
    if name == 'pickle':
        return pickle.loads(pickle.dumps(masks))
    if name == 'cat':
        return masks.cat([masks, masks])
    return masks


STEPS = (
    'rescale', 'rescale by a factor', 'resize', 'flip', 'pad', 'crop', 'expand',
    'translate', 'shear', 'rotate', 'index', 'write', 'pickle', 'cat',
)  # fmt: skip


@given(NUMBERS, SIDES, SIDES, SEEDS, st.lists(st.sampled_from(STEPS), max_size=4))
@settings(deadline=None, max_examples=250)
def test_methods(number, height, width, seed, names):
    ours, theirs = pair(np.random.default_rng(seed), number, height, width)
    assert_same(ours, theirs)
    for name in names:
        before = copy.deepcopy(theirs), theirs
        try:
            theirs = step(name, np.random.default_rng(seed), theirs)
        except Exception as error:
            with pytest.raises(type(error)):
                step(name, np.random.default_rng(seed), ours)
            return
        kept = ours
        ours = step(name, np.random.default_rng(seed), ours)
        assert_same(ours, theirs)
        if name != 'write':  # and what it was made from has not changed
            assert_same(kept, before[0])


@pytest.mark.parametrize('old, new', [(480, 800), (427, 800), (640, 1199), (800, 333)])
def test_resize_at_real_sizes(old, new):
    ours, theirs = pair(np.random.default_rng(0), 3, old, 640)
    shape = new, round(640 * new / old)
    ours, theirs = ours.resize(shape), theirs.resize(shape)
    np.testing.assert_array_equal(ours.masks, theirs.masks)


@pytest.mark.parametrize('index', [0, -1, 3, [2, 0], [], slice(1, None), (1, 0)])
def test_index(index):
    ours, theirs = pair(np.random.default_rng(0), 3, 5, 6)
    try:
        theirs = theirs[index]
    except (IndexError, ValueError) as error:
        with pytest.raises(type(error)):
            ours[index]
        return
    assert_same(ours[index], theirs)


def test_empty_index_arrays():
    """As MMDetection makes them: np.where of nothing, a tensor of a sampler."""
    ours, theirs = pair(np.random.default_rng(0), 3, 5, 6)
    for index in (np.where(np.zeros(3))[0], torch.tensor([2, 1])):
        assert_same(ours[index], theirs[index])


def test_cat_with_others():
    ours, theirs = pair(np.random.default_rng(0), 2, 5, 6)
    expected = BitmapMasks.cat([theirs, theirs])
    for masks in ([ours, ours], [ours, theirs], [theirs, ours]):
        assert_same(masks[0].cat(masks), expected)
    with pytest.raises(ValueError):
        CompactBitmapMasks.cat([])


def test_in_instance_data():
    ours, _ = pair(np.random.default_rng(0), 3, 5, 6)
    data = InstanceData(masks=ours, labels=torch.arange(3))
    assert len(data[torch.tensor([True, False, True])].masks) == 2
    assert len(InstanceData.cat([data, data]).masks) == 6
    assert 'CompactBitmapMasks(num_masks=3, height=5, width=6)' in repr(data)


def boxes(rng, number, height, width):
    """Within, across the border, thinner than a pixel, of whole pixels."""
    corners = rng.uniform(-3, max(height, width) + 3, (number, 2, 2))
    if rng.random() < 0.5:
        corners = corners.round()
    corners.sort(axis=1)
    return torch.from_numpy(corners.reshape(number, 4)).float()


def both_targets(rng, sizes, number, rois, config):
    """Of a batch of images, padded to one size."""
    masks = [pair(rng, number, *size) for size in sizes]
    padded = tuple(max(side) for side in zip(*sizes))
    masks = [[m.pad(padded) for m in image] for image in masks]
    proposals = [boxes(rng, rois if number else 0, *size) for size in sizes]
    assigned = [
        torch.from_numpy(rng.integers(0, max(number, 1), len(p))) for p in proposals
    ]
    return [
        mask_target(
            [p.clone() for p in proposals], assigned, [m[kind] for m in masks], config
        )
        for kind in (0, 1)
    ]


@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    number=st.integers(0, 20),
    rois=st.integers(0, 40),
    out=st.sampled_from([1, 7, (5, 9), 28]),
    soft=st.booleans(),
    seed=SEEDS,
)
@example([(7, 17)], 11, 15, 7, True, 0)  # not equal if some RoIs come alone
@settings(deadline=None, max_examples=60)
def test_mask_targets(sizes, number, rois, out, soft, seed):
    config = ConfigDict(mask_size=out, soft_mask_target=soft)
    rng = np.random.default_rng(seed)
    ours, theirs = both_targets(rng, sizes, number, rois, config)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize('seed', range(3))
def test_mask_targets_at_real_sizes(seed):
    """Sums of many pixels, not rounded to 0 and 1: equal to the last bit."""
    config = ConfigDict(mask_size=28, soft_mask_target=True)
    rng = np.random.default_rng(seed)
    ours, theirs = both_targets(rng, [(320, 501)], 11, 60, config)
    assert torch.equal(ours, theirs)
    assert 0 < theirs.mean() < 1


def test_mask_targets_take_arrays_and_keep_boxes():
    rng = np.random.default_rng(0)
    ours, theirs = pair(rng, 3, 20, 30)
    rois, inds = boxes(rng, 4, 20, 30).numpy(), np.array([2, 0, 2, 1])
    for kind in (np.float32, np.float64):
        arguments = rois.astype(kind), (4, 5), inds
        np.testing.assert_array_equal(
            ours.crop_and_resize(*arguments).masks,
            theirs.crop_and_resize(*arguments).masks,
        )
    assert type(ours) is CompactBitmapMasks
