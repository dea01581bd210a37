"""tools/infer.py given what it can't use: one clear line for each, and no traceback."""

import builtins
import errno
import os
import shutil
from pathlib import Path

import mobilevig_det.inference.run
from mobilevig_det.errors import UserError
from mobilevig_det.inference.images import VideoWriter
from mobilevig_det.inference.models import load_predictor

import numpy as np
import pytest
import tool
from bad_images import picture
from mmengine.config import Config
from plain_detector import PlainDetector, make_plain_model
from test_resume import infer, rows


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A model, and two images."""
    monkeypatch.chdir(tmp_path)
    os.mkdir('images')
    make_plain_model('model')
    for name in 'ab':
        picture(20, 20).save(f'images/{name}.png')


@pytest.fixture
def told(capsys):
    """Run the tool: its code or message, and the lines that it says before."""

    def run(*inputs, argv=(), **more):
        code = infer(*argv, inputs=inputs, **more)
        lines = capsys.readouterr().err.replace('\r', '\n').splitlines()
        return code, [
            line[line.index('infer.py: ') :] for line in lines if ': ' in line
        ]

    return run


NOTHING = 'infer.py: the inputs contain no images or videos.'
SKIPPED = 'infer.py: 1 skipped, see above.'


def test_folders(told):
    os.mkdir('empty')
    reason = 'infer.py: skipped empty: no images or videos are in this folder'
    assert told('empty') == (NOTHING, [reason])
    Path('empty/a.txt').write_text('text')
    assert told('empty') == (NOTHING, [reason])
    os.makedirs('empty/below')
    shutil.copy('images/a.png', 'empty/below/c.jpg')
    code, (line,) = told('empty')
    assert code == NOTHING and line.startswith(f'{reason}; to include its subfolders')
    assert told(line.split('"')[1]) == (0, [])  # as it says


def refuse(*names):
    """What reads these names as one without the rights to; root has all."""

    def patched(real):
        def function(path='.', *args, **more):
            if path in names:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, *args, **more)

        return function

    return patched


def test_no_rights(told, monkeypatch):
    os.mkdir('closed')
    names = ['closed', 'closed.txt', 'closed.tar', 'images/a.png']
    for name in names[1:]:
        Path(name).touch()
    for module, name in (os, 'listdir'), (os, 'open'), (builtins, 'open'):
        monkeypatch.setattr(module, name, refuse(*names)(getattr(module, name)))
    code, lines = told(*names)
    assert code == 'infer.py: 4 skipped, see above.'
    expected = [
        f'infer.py: skipped {n}: cannot be read: Permission denied' for n in names
    ]
    assert sorted(lines) == sorted(expected)


def test_empty_lists(told, monkeypatch):
    for content in '', '\n \n':
        Path('list.txt').write_text(content)
        line = 'infer.py: skipped list.txt: no names are in this list'
        assert told('list.txt') == (SKIPPED, [line])
    before = os.dup(0)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    try:
        line = 'infer.py: skipped standard input: no names are in this list'
        assert told('-') == (SKIPPED, [line])
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_lists_of_lists_and_folders(told):
    Path('list.txt').write_text('other.txt\nlist.txt\nimages\nimages/*.png\n')
    Path('other.txt').write_text('images/a.png\n')
    code, lines = told('list.txt')
    assert code == 'infer.py: 4 skipped, see above.'
    assert sorted(lines) == [
        'infer.py: skipped images/*.png: there is no such file',
        'infer.py: skipped images: cannot be read: Is a directory',
        'infer.py: skipped list.txt: it is text, not an image',
        'infer.py: skipped other.txt: it is text, not an image',
    ]


def test_a_name_twice(told):
    detector = PlainDetector()
    names = ['images/a.png', 'images', 'images/a.png']
    assert told(*names, detector=detector) == (0, [])
    assert sorted(detector.seen) == ['images/a.png', 'images/b.png']


@pytest.mark.parametrize('format', ['gztar', 'bztar', 'xztar'])
def test_compressed_shards(told, format):
    made = shutil.make_archive('shard', format, 'images')
    shutil.copy(made, 'shard.tar')  # whatever it is called
    for name in os.path.basename(made), 'shard.tar':
        line = (
            f'infer.py: skipped {name}: the tar file is compressed: decompress it first'
        )
        assert told(name) == (SKIPPED, [line])


def test_a_shard_without_images(told):
    os.mkdir('texts')
    Path('texts/a.txt').write_text('text')
    shutil.make_archive('shard', 'tar', 'texts')
    line = 'infer.py: skipped shard.tar: no images are in this tar file'
    assert told('shard.tar') == (SKIPPED, [line])


@pytest.mark.parametrize('out', ['file', 'file/below'])
def test_an_out_dir_that_is_a_file(told, out):
    Path('file').write_text('kept')
    message, lines = told('images', argv=['--out-dir', out])
    assert message.startswith('infer.py: --out-dir cannot be written ([Errno 20] Not a')
    assert 'file' in message and message.endswith(': choose another one.')
    assert not lines and Path('file').read_text() == 'kept'


def test_nothing_to_resume(told):
    assert told('images', argv=['--resume']) == (0, [])
    assert len(rows()) == 2


@pytest.mark.parametrize('value', ['2', '-1', 'nan'])
def test_thresholds(capsys, value):
    assert tool.run('infer', 'images', '--score-thr', value) == 2
    assert '--score-thr: must be between 0 and 1' in capsys.readouterr().err


@pytest.mark.parametrize('device', ['cuda:99', 'gpu'])
def test_devices(device):
    """Of torch without CUDA, too, which raises an error of another kind."""
    with pytest.raises(UserError, match=f'--device {device} cannot be used: '):
        load_predictor(Config(), 'file.pth', device)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_before_the_first_image(told, monkeypatch):
    stopped = 'infer.py: stopped; --resume resumes the run.'
    with monkeypatch.context() as patch:
        patch.setattr('mobilevig_det.inference.run.JsonLinesStore.begin', interrupt)
        assert told('images') == (130, [stopped])
    assert told('images', argv=['--resume']) == (0, [])


def test_ctrl_c_while_the_result_is_written(told, monkeypatch):
    stopped = 'infer.py: stopped; --resume resumes the run.'
    with monkeypatch.context() as patch:
        patch.setattr(mobilevig_det.inference.run, 'write_result', interrupt)
        assert told('images') == (130, [stopped])
    detector = PlainDetector()
    assert told('images', argv=['--resume'], detector=detector) == (0, [])
    assert not detector.seen and Path('out/predictions.json').exists()


@pytest.mark.parametrize(
    'name', ['x.jpg', 'x.mp4', 'x.tar', 'x.parquet', 'x.txt', 'x.gif']
)
@pytest.mark.parametrize('kind', ['device', 'FIFO'])
def test_what_has_no_end_is_skipped(told, name, kind):
    """An image, a video, a shard and a table are files; a list may be a pipe."""
    if name.endswith('.parquet'):
        pytest.importorskip('pyarrow')
    if kind == 'FIFO' and name == 'x.txt':
        pytest.skip('a list may be a pipe')
    if kind == 'device':
        os.symlink('/dev/zero', name)
    else:
        os.mkfifo(name)
    for _ in range(2):
        code, lines = told(name, 'images')
        assert code == SKIPPED
        (line,) = [line for line in lines if 'skipped' in line][:1]
        assert line.startswith(f'infer.py: skipped {name}: ')
        assert len(rows()) >= 2


@pytest.mark.parametrize('name', ['out/rows/x.txt', 'out/predictions.json/a.png'])
def test_no_input_lies_where_results_are_written(told, name):
    os.makedirs(os.path.dirname(name))
    picture(9, 9).save(name, format='PNG')
    before = Path(name).read_bytes()
    code, _ = told(name)
    assert 'lies where this run writes its results' in str(code)
    assert Path(name).read_bytes() == before


def test_a_drawn_video_does_not_write_through_a_link(tmp_path):
    other = tmp_path / 'mine.mp4'
    other.write_bytes(b'of the user')
    os.link(other, tmp_path / 'hard.mp4')
    os.symlink(other, tmp_path / 'soft.mp4')
    for name in 'hard.mp4', 'soft.mp4':
        writer = VideoWriter(str(tmp_path / name), 5, (16, 16))
        writer.write(np.zeros((16, 16, 3), np.uint8))
        writer.finish()
    assert other.read_bytes() == b'of the user'
