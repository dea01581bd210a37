"""Rows of exported models: which there are, and that each of them runs."""

import sys
from argparse import Namespace

from benchmarks import runtimes
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import tiny_detector

ARGS = Namespace(
    archs=['ti'], sizes=['64x96'], rounds=1, device='cpu', threads=1, batch_size=1
)
BACKBONE = [
    'matrix product',
    'PyTorch',
    'PyTorch, fused',
    'ONNX Runtime',
    'OpenVINO',
    'ExecuTorch',
    'wasm, one thread',
]
DETECTOR = ['matrix product', 'MMDetection', 'MMDetection, fused']


def run_here(args, part, size, makes, base):
    """Replace interleaved(): run rows here, but not wasm, which may need a download."""
    rows = []
    for name, make in makes.items():
        row = dict(part=part, size=size, name=name, base=base, seconds=[1.0])
        row['peak_bytes'] = 1
        if name != 'wasm, one thread':
            facts, run = make(args)
            row.update(facts, made=run())
        rows.append(row)
    return rows


def name_rows(args, part, size, makes, base):
    return [dict(name=name) for name in makes]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Replace Mask R-CNN M by a small detector; there is no run of `make demo`."""
    tiny_detector.make(tmp_path / 'tiny')
    monkeypatch.setattr(runtimes, 'interleaved', run_here)
    monkeypatch.setattr(runtimes, 'FULL_CONFIG', str(tmp_path / 'tiny' / 'config.py'))
    monkeypatch.setattr(runtimes, 'DEMO', tmp_path / 'demo')
    monkeypatch.setattr(runtimes, 'EXPORTED', tmp_path / 'export')
    return tmp_path


@pytest.mark.slow
def test_rows_run_and_agree(tiny, capsys):
    pytest.importorskip('executorch')
    rows = list(runtimes.runtime_rows(ARGS))
    assert 'detector of `make demo` is left out' in capsys.readouterr().out
    names = [row['name'] for row in rows]
    assert names == [*BACKBONE, *DETECTOR, 'ONNX Runtime', 'OpenVINO']
    backbone, detector = rows[: len(BACKBONE)], rows[len(BACKBONE) :]
    for part, title, base in (
        (backbone, 'MobileViG-ti, 64x96', 'PyTorch'),
        (detector, f'{runtimes.FULL_CONFIG}, 64x96', 'MMDetection'),
    ):
        assert {(row['size'], row['base']) for row in part} == {(title, base)}
        assert {row['part'] for row in part} == {'runtimes'}
        # PyTorch's operations count for all rows except for the matrix product.
        assert len({(row['gmacs'], row['params']) for row in part[1:]}) == 1
        # Only the memory that PyTorch allocates is known.
        has_peak = [row['name'] for row in part if 'peak_bytes' in row]
        assert has_peak == [row['name'] for row in part[:3]]
    # They returned maps of four levels, and detections.
    for row in backbone[3:6]:
        assert [m.shape[-1] for m in row['made'].values()] == [24, 12, 6, 3]
    for row in detector[3:]:
        assert len(row['made']['scores']) == len(row['made']['masks']) > 0
        assert row['made']['masks'][0].shape == (64, 96)
    one, other = (row['made']['scores'] for row in detector[3:])
    assert np.abs(one - other).max() < 1e-3


def test_int8_models_are_measured_if_they_exist(tiny, monkeypatch):
    (tiny / 'export').mkdir()
    (tiny / 'export' / 'config_int8.onnx').touch()
    monkeypatch.setattr(runtimes, 'interleaved', name_rows)
    monkeypatch.setattr(runtimes, '_backbone_rows', lambda *_: iter(()))
    files = [tiny / 'model.onnx', tiny / 'model.xml']
    monkeypatch.setattr(runtimes, '_export_detector', lambda *_: files)
    names = [row['name'] for row in runtimes.runtime_rows(ARGS)]
    assert names == [*DETECTOR, 'ONNX Runtime', 'ONNX Runtime, int8', 'OpenVINO']


def test_missing_package_is_named_with_its_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, 'executorch', None)
    with pytest.raises(UserError, match=r'executorch.*mobilevig_det\[export\]'):
        list(runtimes.runtime_rows(ARGS))
