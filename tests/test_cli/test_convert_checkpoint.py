"""The convert_checkpoint command."""

import copy
import functools
import os
from pathlib import Path

from mobilevig_det import MobileViG

import pytest
import torch
from checkpoints import coco_checkpoint, imagenet_checkpoint, run_tool
from reference import golden_state_dict


@pytest.fixture
def tool(monkeypatch):
    return functools.partial(run_tool, monkeypatch, 'convert_checkpoint')


def assert_same(a, b):
    """Equal in type, keys, their order, and every bit of every value."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
        assert getattr(a, '_metadata', None) == getattr(b, '_metadata', None)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize(
    'make',
    [
        imagenet_checkpoint,
        lambda: imagenet_checkpoint(averaged=False),
        lambda: coco_checkpoint({'roi_head.fc.weight': torch.rand(2, 3)}),
        lambda: golden_state_dict('ti'),
    ],
    ids=['imagenet', 'raw', 'coco', 'bare'],
)
def test_converting_there_and_back_gives_the_same_file(make, tool, tmp_path):
    original, ours, theirs = (tmp_path / n for n in ('a', 'b', 'c'))
    torch.save(make(), original)
    assert tool(original, ours, '--to', 'mobilevig_det') is None
    assert tool(ours, theirs, '--to', 'authors') is None
    loaded = [torch.load(path, weights_only=True) for path in (original, ours, theirs)]
    assert_same(loaded[0], loaded[2])
    # In between: another name for the backbone's weights, and nothing else.
    a, b = (x.get('state_dict', x) for x in loaded[:2])
    prefix = 'backbone.' if 'meta' in loaded[0] else ''
    assert prefix + 'stages.3.1.ffn.fc2.conv.weight' in b
    assert prefix + 'backbone.1.1.fc2.0.weight' in a
    for x, y in zip(a.values(), b.values()):
        assert_same(x, y)
    for key in set(loaded[0]) - {'state_dict', 'state_dict_ema'} - set(a):
        assert_same(loaded[0][key], loaded[1][key])
    model = MobileViG('ti')
    if not prefix:
        model.load_state_dict({k: b[k] for k in model.state_dict()}, strict=True)
    assert sorted(os.listdir(tmp_path)) == ['a', 'b', 'c']


def test_refusals_leave_no_file(tool, tmp_path, monkeypatch):
    a, b = tmp_path / 'a', tmp_path / 'b'
    torch.save(imagenet_checkpoint(averaged=False), a)
    b.write_text('precious')
    assert 'exists' in tool(a, b, '--to', 'mobilevig_det')
    assert b.read_text() == 'precious'
    assert 'already' in tool(a, tmp_path / 'c', '--to', 'authors')
    assert 'cannot be read' in tool(b, tmp_path / 'c', '--to', 'authors')
    assert 'no checkpoint' in tool(tmp_path / 'd', tmp_path / 'c', '--to', 'authors')
    torch.save({'state_dict': {'layer1.0.conv1.weight': torch.zeros(1)}}, b)
    assert 'no weights of MobileViG or its siblings' in tool(
        b, tmp_path / 'c', '--to', 'authors'
    )
    assert 'cannot be written' in tool(
        a, tmp_path / 'no' / 'c', '--to', 'mobilevig_det'
    )
    assert sorted(os.listdir(tmp_path)) == ['a', 'b']  # nothing half-written
    # Interrupted while it writes: what was there stays.
    before = b.read_bytes()

    def interrupted(checkpoint, path):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', interrupted)
    assert 'No space' in tool(a, b, '--to', 'mobilevig_det', '--overwrite')
    assert b.read_bytes() == before
    monkeypatch.undo()


def test_overwrite_replaces_the_file(tool, tmp_path):
    a = tmp_path / 'a'
    torch.save(imagenet_checkpoint(averaged=False), a)
    original = copy.deepcopy(torch.load(a, weights_only=True))
    assert tool(a, a, '--to', 'mobilevig_det', '--overwrite') is None
    assert tool(a, a, '--to', 'authors', '--overwrite') is None
    assert_same(torch.load(a, weights_only=True), original)
