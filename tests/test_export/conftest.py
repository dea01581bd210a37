import os

from mobilevig_det.export.onnx import detectors, layers

import pytest
import tiny_detector
import tool
from exported import FAMILIES, Exporter
from filelock import FileLock


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
    """A temporary folder that the processes of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder


@pytest.fixture(scope='session')
def exporters(shared_folder):
    """An :class:`Exporter` of each family, made when it is asked for."""

    class Exporters(dict):
        def __missing__(self, family):
            self[family] = Exporter(family, shared_folder)
            return self[family]

    return Exporters()


@pytest.fixture(params=FAMILIES)
def exporter(request, exporters):
    return exporters[request.param]


@pytest.fixture
def traced_once(exporters, monkeypatch):
    """Let PyTorch's exporter convert the tiny Faster R-CNN once for all tests that
    export it with the tool: its weights are the same, else the verification fails."""
    for module in (layers, detectors):
        monkeypatch.setattr(module, 'to_onnx', exporters['Faster R-CNN'].once)


@pytest.fixture(scope='session')
def exported_tiny(shared_folder):
    """A folder with a tiny Mask R-CNN: config.py, epoch_1.pth, model.onnx."""
    folder = shared_folder / 'exported_tiny'
    out = folder / 'model.onnx'
    with FileLock(f'{folder}.lock'):
        if not out.exists():
            tiny_detector.make(folder)
            model = folder / 'config.py', folder / 'epoch_1.pth'
            assert tool.run('export', *model, '--format', 'onnx', '--out', out) == 0
    return folder
