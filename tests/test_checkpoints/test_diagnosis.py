"""Explanation of checkpoints that don't fit."""

from mobilevig_det.checkpoints import explain_mismatch
from mobilevig_det.errors import UserError

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict


@pytest.mark.parametrize('load', [torch.nn.Module.load_state_dict, load_state_dict])
def test_strict_loading_error_becomes_a_user_error(load):
    model = torch.nn.Linear(2, 3)
    with pytest.raises(UserError) as error:
        with explain_mismatch('a.pth', 'use another file'):
            load(model, {'weight': torch.zeros(3, 2)}, strict=True)
    assert 'a.pth does not fit the config: use another file.\n' in str(error.value)
    assert 'bias' in str(error.value)


def test_user_error_names_the_file_once():
    for message in ('no head', 'a.pth: no head'):
        with pytest.raises(UserError) as error:
            with explain_mismatch('a.pth'):
                raise UserError(message)
        assert str(error.value) == 'a.pth: no head'


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match='^out of memory$'):
        with explain_mismatch('a.pth'):
            raise RuntimeError('out of memory')
