"""Names of Pyramid ViG's weights, and the position matrices of its files."""

from mobilevig_det import PyramidViG
from mobilevig_det.checkpoints import weights
from mobilevig_det.checkpoints.key_mapping import convert, from_authors, to_authors
from mobilevig_det.errors import UserError

import pytest
import torch
from checkpoints import run_tool
from pyramidvig import SIZES, authors_shapes, golden_state_dict, relative_positions

ARCH = dict(channels=(4, 8, 12, 16), blocks=(2, 1, 3, 2))
MATRIX = 'backbone.3.0.relative_pos'  # of the first block of stage 2


def is_matrix(key):
    return key.endswith('.relative_pos')


@pytest.mark.parametrize('size', SIZES)
def test_mapping_is_one_to_one(size):
    theirs = {
        key: torch.empty(shape, device='meta')
        for key, shape in authors_shapes(size).items()
    }
    ours = from_authors(theirs)
    assert {key: v.shape for key, v in to_authors(ours).items()} == {
        key: v.shape for key, v in theirs.items()
    }
    assert list(to_authors(ours)) == list(theirs)
    with torch.device('meta'):
        own = PyramidViG(size).state_dict()
    found = {k: v.shape for k, v in ours.items() if not k.startswith('prediction.')}
    assert found == {key: value.shape for key, value in own.items()}
    for prefix in ('', 'backbone.', 'module.backbone.'):
        keys = {'first': 0, **{prefix + k: v for k, v in theirs.items()}, 'last': 2}
        there = convert(keys, 'mobilevig_det')
        assert list(there) == ['first', *(prefix + k for k in ours), 'last']
        assert list(convert(there, 'authors')) == list(keys)


def test_mapping_follows_the_depths():
    ours = PyramidViG(ARCH).state_dict()
    theirs = to_authors(ours)
    assert not set(theirs) & set(ours)
    assert theirs['backbone.2.conv.0.weight'] is ours['downsamples.0.conv.weight']
    key = 'backbone.6.0.graph_conv.gconv.nn.0.weight'
    assert theirs[key] is ours['stages.2.1.grapher.graph_conv.conv.weight']
    assert [key for key in theirs if is_matrix(key)] == [
        f'backbone.{n}.0.relative_pos' for n in (0, 1, 3, 5, 6, 7, 9, 10)
    ]
    assert list(from_authors(theirs)) == list(ours)
    PyramidViG(ARCH).load_state_dict(theirs)


def test_converted_files_have_the_authors_matrices():
    """In the weights' dtype, as the authors' code computes them."""
    theirs = golden_state_dict('ti')
    back = to_authors(from_authors(theirs))
    assert list(back) == list(theirs)
    for key, value in theirs.items():
        if is_matrix(key):
            assert back[key].dtype == torch.float32
            torch.testing.assert_close(back[key].double(), value, rtol=0, atol=2e-7)
        else:
            assert back[key] is value


def test_convert_tool(monkeypatch, tmp_path):
    theirs = to_authors(PyramidViG(ARCH).state_dict())
    places = [tmp_path / name for name in ('theirs.pth', 'ours.pth', 'back.pth')]
    torch.save(theirs, places[0])
    for source, target, layout in zip(places, places[1:], ('mobilevig_det', 'authors')):
        run_tool(monkeypatch, 'convert_checkpoint', source, target, '--to', layout)
    ours, back = (torch.load(path, weights_only=True) for path in places[1:])
    assert set(ours) == set(PyramidViG(ARCH).state_dict())
    assert list(back) == list(theirs)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda m: m + 2e-5, 'differs by 2e-05'),
        (lambda m: -m, 'differs by'),
        (lambda m: m.transpose(1, 2), r'shape \(1, 196, 784\) instead of'),
        (lambda m: None, None),
        (lambda m: 'text', r'shape \(\)'),
        (lambda m: relative_positions(12, 1).float(), 'differs by'),
    ],
)
def test_foreign_position_matrices_are_refused(change, said):
    theirs = to_authors(PyramidViG(ARCH).state_dict())
    value = change(theirs[MATRIX])
    theirs[MATRIX] = value
    if value is None:  # a file without it is complete
        del theirs[MATRIX]
        PyramidViG(ARCH).load_state_dict(theirs)
        return
    with pytest.raises(UserError, match=f'{MATRIX} is not the position.*{said}'):
        PyramidViG(ARCH).load_state_dict(theirs)
    nested = {f'backbone.{key}': value for key, value in theirs.items()}
    with pytest.raises(UserError, match=f'backbone.{MATRIX} is not'):
        convert(nested, 'mobilevig_det')


def test_rounded_position_matrices_are_accepted():
    theirs = to_authors(PyramidViG(ARCH).state_dict())
    theirs[MATRIX] = theirs[MATRIX].half()
    PyramidViG(ARCH).load_state_dict(theirs)


@pytest.mark.parametrize('key', ['pos_embed', 'backbone.4.conv.0.weight'])
def test_incomplete_files_are_refused(key):
    theirs = to_authors(PyramidViG(ARCH).state_dict())
    value = theirs.pop(key)
    with pytest.raises(UserError, match='does not fit'):
        PyramidViG(ARCH).load_state_dict(theirs, strict=False)
    theirs[key] = value
    theirs['backbone.20.0.relative_pos'] = torch.zeros(1, 49, 49)
    with pytest.raises(UserError, match='does not fit'):
        PyramidViG(ARCH).load_state_dict(theirs, strict=False)


def test_published_files_by_name(monkeypatch, tmp_path):
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    with pytest.raises(UserError, match=r'github.com/huawei-noah/\S+/pyramid-vig'):
        weights.find_file('mobilevig://pyramidvig-s')
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    (tmp_path / 'pvig_s_82.1.pth.tar').touch()
    found = weights.find_file('mobilevig://pyramidvig-s')
    assert found == tmp_path / 'pvig_s_82.1.pth.tar'
