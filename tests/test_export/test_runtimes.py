"""Exported files in their runtimes, in a program that goes on after them."""

import subprocess
import sys

from mobilevig_det.export.openvino import write_openvino

import pytest
import tool
from exported import METADATA
from onnx import TensorProto, helper, save

# Python's handlers run on the thread's signal stack once faulthandler is on.
SIGNAL_AFTER = """
import faulthandler, gc, importlib.util, signal, sys
faulthandler.enable()
signal.signal(signal.SIGTERM, lambda *_: print('handled'))
if {library!r}:
    from mobilevig_det.export import load
else:
    spec = importlib.util.spec_from_file_location('run_onnx', {tool!r})
    run_onnx = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run_onnx)
    load = run_onnx.load
first, second = load({path!r}), load({path!r})
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize('library', [True, False])
def test_signals_after_openvino(library, tmp_path):
    """Two models of OpenVINO that end in the order of their start."""
    image = helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, 8, 8])
    map0 = helper.make_tensor_value_info('map0', TensorProto.FLOAT, [1, 3, 8, 8])
    relu = helper.make_node('Relu', ['image'], ['map0'])
    graph = helper.make_graph([relu], 'relu', [image], [map0])
    opset = [helper.make_opsetid('', 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    save(model, tmp_path / 'model.onnx')
    path = tmp_path / 'model.xml'
    write_openvino(tmp_path / 'model.onnx', path, METADATA)
    script = SIGNAL_AFTER.format(
        library=library, tool=str(tool.TOOLS / 'run_onnx.py'), path=str(path)
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr
