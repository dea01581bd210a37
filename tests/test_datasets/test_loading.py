"""LoadCompactAnnotations: what reaches the model is MMDetection's, to the bit."""

import copy
import pickle

from mobilevig_det.datasets.loading import CompactBitmapMasks

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_coco
import torch
from bad_images import encode, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import register_all_modules

OURS, THEIRS = 'LoadCompactAnnotations', 'LoadAnnotations'


@pytest.fixture(scope='module', autouse=True)
def registered():
    register_all_modules(init_default_scope=False)


def segmentation(rng, kind, width, height):
    if kind == 'polygons':
        sides = np.tile([width, height], 4)
        return [
            (rng.uniform(-0.2, 1.2, 8) * sides).round(2).tolist()
            for _ in range(rng.integers(1, 4))
        ]
    if kind == 'invalid':
        return [[1.0, 2.0, 3.0]]
    if kind == 'no counts':
        return dict(size=[height, width])
    mask = np.zeros((height, width), np.uint8, order='F')
    if kind != 'empty':
        mask[rng.random((height, width)) > 0.7] = 1
        mask[: height // 2] = 0
    if kind == 'uncompressed':
        flat = mask.ravel(order='F')
        edges = np.flatnonzero(np.diff(flat)) + 1
        lengths = np.diff([0, *edges, flat.size]).tolist()
        return dict(size=[height, width], counts=[0] * int(flat[0]) + lengths)
    code = mask_utils.encode(mask)
    return dict(size=code['size'], counts=code['counts'].decode())


KINDS = ('polygons', 'rle', 'uncompressed', 'empty', 'invalid', 'no counts')


def sample(rng, path, kinds, width, height):
    instances = [
        dict(
            bbox=[0.0, 0.0, float(width), float(height)],
            bbox_label=i,
            ignore_flag=int(rng.integers(2)),  # COCO's iscrowd
            mask=segmentation(rng, kind, width, height),
        )
        for i, kind in enumerate(kinds)
    ]
    return dict(img_path=path, img_id=0, instances=instances, height=1, width=1)


STEPS = dict(
    resize=dict(type='Resize', scale=(71, 45), keep_ratio=True),
    stretch=dict(type='Resize', scale=(40, 45), keep_ratio=False),
    many=dict(
        type='RandomResize', scale=[(60, 30), (90, 60)], keep_ratio=True,
        resize_type='mmdet.Resize',  # else mmcv's, without a default scope
    ),
    flip=dict(type='RandomFlip', prob=0.8, direction=['horizontal', 'vertical']),
    crop=dict(
        type='RandomCrop', crop_size=(21, 17), recompute_bbox=True,
        allow_negative_crop=True,
    ),
    expand=dict(type='Expand', mean=[1, 2, 3], ratio_range=(1, 2)),
    pad=dict(type='Pad', size_divisor=32),
    erase=dict(
        type='RandomErasing', n_patches=2, ratio=0.3, mask_border_value=0
    ),
    rotate=dict(type='Rotate', prob=1.0, level=5),
    shear=dict(type='ShearX', prob=1.0, level=5),
    filter=dict(type='FilterAnnotations', by_mask=True, min_gt_mask_area=3),
)  # fmt: skip


def load(data, kind, steps, seed):
    """What the transforms make of it, and the process's random numbers with it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        data = copy.deepcopy(data)
        names = [
            dict(type='LoadImageFromFile'),
            dict(type=kind, with_bbox=True, with_mask=True),
            *(STEPS[step] for step in steps),
            dict(type='PackDetInputs', meta_keys=('img_shape', 'scale_factor', 'flip')),
        ]
        for step in names:
            data = TRANSFORMS.build(dict(step)).transform(data)
            if data is None:
                return None
        return data
    finally:
        np.random.set_state(state)


def assert_equal(ours, theirs):
    if theirs is None:
        assert ours is None
        return
    assert torch.equal(ours['inputs'], theirs['inputs'])
    ours, theirs = ours['data_samples'], theirs['data_samples']
    assert ours.metainfo == theirs.metainfo
    for name in ('gt_instances', 'ignored_instances'):
        a, b = ours.get(name), theirs.get(name)
        assert torch.equal(a.bboxes.tensor, b.bboxes.tensor)
        assert torch.equal(a.labels, b.labels)
        assert len(a.masks) == len(b.masks)
        for dtype in (torch.bool, torch.float32):
            assert torch.equal(
                a.masks.to_tensor(dtype, 'cpu'), b.masks.to_tensor(dtype, 'cpu')
            )
        assert a.masks.masks.dtype == b.masks.masks.dtype
        np.testing.assert_array_equal(a.masks.masks, b.masks.masks)


@pytest.fixture(scope='module')
def jpeg(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')

    def write(width, height):
        path = folder / f'{width}x{height}.jpg'
        if not path.exists():
            path.write_bytes(encode(picture(width, height)))
        return str(path)

    return write


@given(
    size=st.sampled_from([(1, 1), (53, 31), (32, 64), (9, 2)]),
    kinds=st.lists(st.sampled_from(KINDS), max_size=5),
    steps=st.lists(st.sampled_from(list(STEPS)), max_size=3, unique=True),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=120)
def test_pipelines(jpeg, size, kinds, steps, seed):
    data = sample(np.random.default_rng(seed), jpeg(*size), kinds, *size)
    try:
        theirs = load(data, THEIRS, steps, seed)
    except Exception as error:  # what MMDetection can't do, ours can't either
        with pytest.raises(type(error)):
            load(data, OURS, steps, seed)
        return
    ours = load(data, OURS, steps, seed)
    assert_equal(copy.deepcopy(ours), theirs)  # as through a worker's pipe
    assert_equal(ours, theirs)


def test_fewer_bytes(jpeg):
    """The recipe's masks through the pipe of a worker: a fifth at most."""
    size = 320, 240
    rng = np.random.default_rng(0)
    data = sample(rng, jpeg(*size), ['polygons'] * 7, *size)
    sizes = []
    for kind in (OURS, THEIRS):
        masks = load(data, kind, ['resize', 'flip'], 3)['data_samples']
        sizes.append(len(pickle.dumps(masks.gt_instances.masks)))
    assert sizes[0] <= sizes[1] / 5


def test_types(jpeg):
    data = sample(np.random.default_rng(0), jpeg(53, 31), ['polygons'], 53, 31)
    data['ori_shape'] = 31, 53
    compact = TRANSFORMS.build(dict(type=OURS, with_mask=True))
    assert type(compact.transform(dict(data))['gt_masks']) is CompactBitmapMasks
    polygons = TRANSFORMS.build(dict(type=OURS, with_mask=True, poly2mask=False))
    assert type(polygons.transform(dict(data))['gt_masks']) is PolygonMasks
    boxes = TRANSFORMS.build(dict(type=OURS, with_bbox=True))
    assert 'gt_masks' not in boxes.transform(dict(data))


def test_rle_of_another_size(jpeg):
    """As MMDetection takes it: of as many pixels it is reshaped."""
    mask = tiny_coco.rle((1, 2, 3, 4), height=53, width=31)
    data = dict(ori_shape=(31, 53), instances=[dict(mask=mask, ignore_flag=0)])
    data['instances'][0].update(bbox=[0, 0, 1, 1], bbox_label=0)
    ours, theirs = (
        TRANSFORMS.build(dict(type=kind, with_mask=True)).transform(
            copy.deepcopy(data)
        )['gt_masks']
        for kind in (OURS, THEIRS)
    )
    assert type(ours) is BitmapMasks
    np.testing.assert_array_equal(ours.masks, theirs.masks)


def test_padded_batch(jpeg):
    """MMDetection's preprocessor pads the masks to the batch's size."""
    batches = []
    for kind in (OURS, THEIRS):
        packed = [
            load(
                sample(np.random.default_rng(i), jpeg(*size), KINDS, *size),
                kind, ['resize'], i,
            )
            for i, size in enumerate([(53, 31), (32, 64)])
        ]  # fmt: skip
        preprocessor = MODELS.build(
            dict(type='DetDataPreprocessor', pad_mask=True, pad_size_divisor=32)
        )
        batch = {key: [p[key] for p in packed] for key in packed[0]}
        batches.append(preprocessor(batch, training=True))
    assert torch.equal(batches[0]['inputs'], batches[1]['inputs'])
    for ours, theirs in zip(*(batch['data_samples'] for batch in batches)):
        assert ours.gt_instances.masks.height == ours.batch_input_shape[0]
        np.testing.assert_array_equal(
            ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks
        )
