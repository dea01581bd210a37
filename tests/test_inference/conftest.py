import json

import pytest
import tiny_detector
import tool


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    return folder


@pytest.fixture
def infer(model_dir, tmp_path):
    """Run the tool; return its exit code or message and what it wrote."""

    def run(*argv, draw=False, out='out'):
        code = tool.run(
            'infer',
            '--checkpoint',
            model_dir / 'epoch_1.pth',
            '--device',
            'cpu',
            '--score-thr',
            0.4,
            '--out-dir',
            tmp_path / out,
            *([] if draw else ['--no-save-vis']),
            *argv,
        )
        path = tmp_path / out / 'predictions.json'
        return code, json.loads(path.read_text()) if path.exists() else None

    return run
