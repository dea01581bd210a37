"""Core ML packages: what their programs hold; nothing here can run them."""

from mobilevig_det.errors import UserError

import pytest
import tiny_backbone
from torch import nn

NOT_HERE = 'coremltools is not installed: pip install "mobilevig_det[export]"'


@pytest.fixture(scope='module')
def coreml():
    pytest.importorskip('coremltools', reason=NOT_HERE)
    from mobilevig_det.export import coreml

    return coreml


@pytest.fixture(scope='module')
def written(coreml, tmp_path_factory):
    path = tmp_path_factory.mktemp('coreml') / 'tiny.mlpackage'
    model = tiny_backbone.make()
    counts = coreml.write_coreml(model, path, (64, 96), tiny_backbone.METADATA)
    return model, path, counts


def test_program(coreml, written):
    model, _, counts = written
    assert not any('gather' in name for name in counts)
    assert counts['conv'] == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert counts['gelu'] == sum(isinstance(m, nn.GELU) for m in model.modules())


def test_another_normalisation_is_noticed(coreml, written):
    operations = coreml.read_program(written[1])
    mean, std = tiny_backbone.METADATA['mean'], tiny_backbone.METADATA['std']
    coreml._check_normalisation(operations, mean, std)
    with pytest.raises(UserError, match='pixels of 0'):
        coreml._check_normalisation(operations, mean[::-1], std)
    with pytest.raises(UserError, match='pixels of'):
        coreml._check_normalisation(operations, mean, [57.0] * 3)


def test_ti_at_224_is_short(coreml, tmp_path):
    from mobilevig_det import MobileViG

    model = MobileViG('ti').eval().fuse()
    path = tmp_path / 'ti.mlpackage'
    counts = coreml.write_coreml(model, path, (224, 224), tiny_backbone.METADATA)
    assert counts['gelu'] == 26
    assert sum(counts.values()) <= 149
