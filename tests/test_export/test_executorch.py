"""ExecuTorch files: run in their runtime, and delegated whole."""

import json

from mobilevig_det.errors import UserError
from mobilevig_det.export import executorch as forms
from mobilevig_det.export import load

import numpy as np
import pytest
import tiny_backbone
import torch
import torch.nn.functional as F

NOT_HERE = 'ExecuTorch is not installed: pip install "mobilevig_det[export]"'


@pytest.fixture(scope='module')
def write():
    pytest.importorskip('executorch', reason=NOT_HERE)
    from mobilevig_det.export.executorch import write_executorch

    return write_executorch


# Also a stage of 1 x 3 pixels, and an odd one whose extra level is half of it.
@pytest.mark.parametrize(
    'size, neck, stride',
    [
        ((96, 64), True, 2),
        pytest.param((32, 96), True, 1, marks=pytest.mark.slow),
        ((75, 90), False, 3),
    ],
)
def test_equals_pytorch(write, size, neck, stride, tmp_path):
    model = tiny_backbone.make(neck, stride)
    path = tmp_path / 'model.pte'
    metadata = tiny_backbone.METADATA | dict(fixed_size=list(size))
    write(model, path, size, metadata)
    session = load(path)
    assert session.metadata == metadata
    earlier = None
    for seed in range(2):
        x = torch.randn(1, 3, *size, generator=torch.manual_seed(seed))
        found, expected = session(image=x.numpy()), model(x)
        assert list(found) == [f'map{i}' for i in range(len(expected))]
        assert tiny_backbone.worst(found.values(), expected) < 1e-4
        if earlier:  # is not overwritten by the next image
            assert tiny_backbone.worst(earlier[0].values(), earlier[1]) < 1e-4
        earlier = found, expected
    with pytest.raises(UserError, match='takes one image of 3 x'):
        session(image=np.zeros((1, 3, 64, 65), np.float32))


def test_names_what_stays_outside(write, tmp_path):
    # An FPN that doubles once of three times.
    with pytest.raises(UserError, match=r'2 x aten::upsample_nearest2d.*multiples'):
        write(tiny_backbone.make(), tmp_path / 'model.pte', (75, 90), {})
    with pytest.raises(UserError, match='--size H W'):
        write(tiny_backbone.make(), tmp_path / 'model.pte', None, {})
    with pytest.raises(UserError, match='at least 32'):
        write(tiny_backbone.make(), tmp_path / 'model.pte', (16, 64), {})
    assert not list(tmp_path.iterdir())


def test_metadata_is_needed(tmp_path):
    pytest.importorskip('executorch', reason=NOT_HERE)
    path = tmp_path / 'model.pte'
    path.write_bytes(b'?')
    with pytest.raises(UserError, match='model.json is missing'):
        load(path)
    (tmp_path / 'model.json').write_text(json.dumps(tiny_backbone.METADATA))
    with pytest.raises(UserError, match='model.json has no fixed_size'):
        load(path)
    metadata = tiny_backbone.METADATA | dict(fixed_size=[32, 32])
    (tmp_path / 'model.json').write_text(json.dumps(metadata))
    with pytest.raises(UserError, match='cannot be loaded'):
        load(path)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 4), (7, 7)])
def test_forms_equal_what_they_replace(size):
    x = torch.randn(2, 3, *size)
    height, width = size
    doubled = [2 * height, 2 * width]
    expected = F.interpolate(x, scale_factor=2, mode='nearest')
    assert torch.equal(forms._upsample_twice(x, doubled, None), expected)
    assert torch.equal(forms._upsample_twice(x, None, [2.0, 2.0]), expected)
    assert forms._upsample_twice(x, [2 * height, 2 * width - 1], None) is NotImplemented
    expected = F.max_pool2d(x, 1, 2)
    assert torch.equal(forms._subsample(x, (1, 1), (2, 2)), expected)
    assert forms._subsample(x, (2, 2), (2, 2)) is NotImplemented
