"""Renaming of weights between the authors' layout and ours, for any names."""

from mobilevig_det import MobileViG
from mobilevig_det.checkpoints.key_mapping import (
    convert,
    find_backbones,
    from_authors,
    guess_arch,
    is_authors_layout,
    to_authors,
)
from mobilevig_det.errors import UserError

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import ARCHS, golden_state_dict

ARCH = dict(channels=(4, 4, 8, 8), blocks=(1, 2, 1, 2))
MODEL = MobileViG(ARCH)
OWN = {key: value.clone() for key, value in MODEL.state_dict().items()}
# Parts of real names, put together in any way.
PARTS = st.sampled_from(
    [
        *sorted({part for key in [*OWN, *to_authors(OWN)] for part in key.split('.')}),
        *('', '99', '9' * 5000, '999999999', 'x', '-1', 'head', '٣', '²'),
    ]
)
NAMES = st.lists(PARTS, max_size=6).map('.'.join) | st.text(max_size=8)
VALUES = st.sampled_from([torch.zeros(4), torch.zeros(4, 3, 3, 3), torch.zeros(())])


@settings(deadline=None, max_examples=300, derandomize=True)
@given(weights=st.dictionaries(NAMES, VALUES, max_size=12))
@example(weights={'local_backbone.': torch.zeros(1)})
@example(weights={'local_backbone.x.conv.0.weight': torch.zeros(1)})
@example(weights={'local_backbone.²': torch.zeros(1)})
@example(weights={'stages.0.999999999999.x': torch.zeros(1)})  # how many blocks?
@example(weights={'stages.3.': torch.zeros(1), 'stages.0': torch.zeros(1)})
@example(
    weights={
        'local_backbone.0.mlp.fc1.weight': torch.zeros(1),
        'stages.0.0.expand.conv.weight': torch.ones(1),
    }
)
@example(
    weights={
        key: torch.zeros(())
        for key in OWN
        if key.startswith(('stem.1.conv', 'downsamples.'))
    }
)
def test_renaming_any_names_keeps_every_value(weights):
    """No value is lost or made, none gets another one's name."""
    for rename in (
        from_authors,
        to_authors,
        lambda w: convert(w, 'authors'),
        lambda w: convert(w, 'mobilevig_det'),
    ):
        try:
            renamed = rename(weights)
        except UserError as error:
            assert 'name' in str(error)
            continue
        assert len(renamed) == len(weights)
        for a, b in zip(renamed.values(), weights.values()):
            assert a is b
    assert guess_arch(weights, MobileViG.arch_settings) is None
    for layout in ('authors', 'mobilevig_det'):
        find_backbones(weights, layout)
    is_authors_layout(weights)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_one_changed_name_is_refused(data):
    """One name or value of the authors' changed: a message, no half loading."""
    weights = to_authors(OWN)
    keys = [key for key in weights if not key.endswith('num_batches_tracked')]
    key = data.draw(st.sampled_from(keys))
    value = weights.pop(key)
    changed = data.draw(NAMES.filter(lambda name: name != key and name not in weights))
    weights[changed] = value
    try:
        MODEL.load_state_dict(weights)
    except UserError as error:
        assert 'does not fit' in str(error) or 'name' in str(error)
    else:
        raise AssertionError(f'{changed} was taken for {key}')
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(tensor, OWN[name])


@pytest.mark.parametrize('arch', ARCHS)
def test_mapping_is_one_to_one(arch):
    theirs = dict.fromkeys(golden_state_dict(arch))
    ours = from_authors(theirs)
    assert list(to_authors(ours)) == list(theirs)
    # The names that our model has, and the classifier.
    backbone = {k for k in ours if not k.startswith(('pred', 'head', 'dist'))}
    assert backbone == set(MobileViG(arch).state_dict())
    for prefix in ('', 'backbone.', 'module.backbone.'):
        keys = {'first': 0, **{prefix + k: 1 for k in theirs}, 'last': 2}
        there = convert(keys, 'mobilevig_det')
        assert list(there) == ['first', *(prefix + k for k in ours), 'last']
        assert convert(there, 'authors') == keys
        assert list(convert(there, 'authors')) == list(keys)


def test_mapping_follows_the_depths():
    """Of any arch: no depth is written down anywhere."""
    arch = dict(channels=(8, 12, 16, 20), blocks=(1, 4, 2, 3))
    ours = dict.fromkeys(MobileViG(arch).state_dict())
    theirs = to_authors(ours)
    assert list(from_authors(theirs)) == list(ours)
    assert 'local_backbone.1.conv.0.weight' in theirs  # after 1 block
    assert 'local_backbone.6.conv.0.weight' in theirs  # after 4 more
    assert 'local_backbone.9.conv.1.running_var' in theirs
    assert 'backbone.2.1.fc2.0.weight' in theirs
