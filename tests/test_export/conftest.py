from mobilevig_det.export.onnx import tracing, two_stage

import pytest
import tiny_detector
import tool
from exported import FAMILIES, Exporter


@pytest.fixture(scope='session')
def exporters():
    """An :class:`Exporter` of each family, made when it is asked for."""

    class Exporters(dict):
        def __missing__(self, family):
            self[family] = Exporter(family)
            return self[family]

    return Exporters()


@pytest.fixture(params=FAMILIES)
def exporter(request, exporters):
    return exporters[request.param]


@pytest.fixture
def traced_once(exporters, monkeypatch):
    """Let PyTorch's exporter convert the tiny Faster R-CNN once for all tests that
    export it with the tool: its weights are the same, else the verification fails."""
    for module in (tracing, two_stage):
        monkeypatch.setattr(module, 'to_onnx', exporters['Faster R-CNN'].once)


@pytest.fixture(scope='session')
def exported_tiny(tmp_path_factory):
    """A folder with a tiny Mask R-CNN: config.py, epoch_1.pth, model.onnx."""
    folder = tmp_path_factory.mktemp('exported_tiny')
    tiny_detector.make(folder)
    model = folder / 'config.py', folder / 'epoch_1.pth'
    out = folder / 'model.onnx'
    assert tool.run('export', *model, '--format', 'onnx', '--out', out) == 0
    return folder
