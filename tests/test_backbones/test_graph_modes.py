"""torch.fx and TorchScript of the timm models, compared with the models themselves."""

from mobilevig_det.errors import UserError

import pytest
import torch
from torchvision_stand_in import import_with_stand_in

SIZES = {
    'mobilevig': 'tsmb',
    'mobilevigv2': 'tsmb',
    'rapidnet': 'tsmb',
    'greedyvig': 'smb',
    'adaptvig': 'smb',
}


def names():
    """All models; all but the smallest of each family among the slow tests."""
    for family, sizes in SIZES.items():
        for i, size in enumerate(sizes):
            name = f'{family}_{"ti" if size == "t" else size}'
            yield pytest.param(name, marks=[pytest.mark.slow] if i else [])


@pytest.fixture(params=names())
def model(request):
    timm = import_with_stand_in('timm')
    import mobilevig_det.timm_models  # noqa: F401  registers them

    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=7).eval()


def images(batch, height, width):
    return torch.randn(batch, 3, height, width, generator=torch.manual_seed(1))


def test_fx_graph_computes_exactly_what_the_model_does(model):
    """In any size, as timm's own test demands; then in training, with gradients."""
    graph = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        for size in [(1, 64, 64), (2, 33, 100)]:
            assert torch.equal(graph(images(*size)), model(images(*size)))
    with pytest.raises(UserError, match='at least 32 x 32 pixels, but got 16 x 64'):
        graph(images(1, 16, 64))
    model.train()
    graph = torch.fx.symbolic_trace(model)
    graph(images(2, 64, 64)).mean().backward()
    assert all(p.grad is not None for p in graph.parameters())


def test_torchscript_computes_what_the_model_does(model, tmp_path):
    """In any size, and from a file."""
    torch.jit.script(model).save(tmp_path / 'model.pt')
    script = torch.jit.load(tmp_path / 'model.pt')
    # The model itself is as it was.
    assert type(model.backbone).__module__.startswith('mobilevig_det')
    with torch.no_grad():
        for size in [(1, 64, 64), (2, 33, 100)]:
            expected = model(images(*size))
            found = script(images(*size))
            assert found.shape == expected.shape
            error = (found - expected).abs().max() / expected.abs().max()
            assert error < 1e-4
    with pytest.raises(torch.jit.Error, match='at least 32 x 32 pixels'):
        script(images(1, 16, 64))
