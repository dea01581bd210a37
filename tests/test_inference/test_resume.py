"""tools/infer.py that is stopped anywhere, and goes on."""

import errno
import json
import os
import re
import resource
import sys
from pathlib import Path
from unittest import mock

from mobilevig_det.datasets.image_file import ImageFileError, read_image
from mobilevig_det.inference import run as inference_run
from mobilevig_det.inference.images import InputImage

import cv2
import numpy as np
import pytest
import tool
from bad_images import picture
from plain_detector import PlainDetector, make_plain_model
from test_writers import CATEGORIES, Everything

FRAMES = 7


class Stop(Exception):
    """What nobody catches: as good as a kill."""


class StopAt:
    """Raises at a picture, counted over all."""

    def __init__(self, number, error=Stop):
        self.left, self.error = number, error

    def __call__(self, picture):
        self.left -= 1
        if self.left < 0:
            raise self.error


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with images of some sizes, two of the test set, bad ones, a line, and
    two videos, one of them broken off."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        size = (30, 20) if i % 3 else (20, 30)
        cv2.imwrite(f'images/{i}.png', rng.integers(0, 256, (*size, 3), np.uint8))
    cv2.imwrite('images/5_line.png', np.zeros((1, 50, 3), np.uint8))
    Path('images/3_text.jpg').write_text('text, not an image')
    picture(16, 16).save(os.fsencode('images/') + b'caf\xe9.png')
    for name, frames in ('a.avi', FRAMES), ('b.avi', 50):
        writer = cv2.VideoWriter(
            f'images/{name}', cv2.VideoWriter_fourcc(*'MJPG'), 10, (32, 16)
        )
        for _ in range(frames):
            writer.write(rng.integers(0, 256, (16, 32, 3), np.uint8))
        writer.release()
    data = Path('images/b.avi').read_bytes()
    Path('images/b.avi').write_bytes(data[: len(data) // 2])
    Path('test.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=40, file_name='7.png'), dict(id=17, file_name='2.png')],
                annotations=[],
                categories=[dict(id=i, name=name) for i, name in CATEGORIES.items()],
            )
        )
    )
    make_plain_model('model')
    return tmp_path


def infer(*argv, detector=None, draw=False, inputs=('images',)):
    """The tool's exit code or message."""

    def load(cfg, checkpoint, device, score_thr):
        found = detector or PlainDetector()
        found.score_thr = score_thr
        return found

    flags = [] if draw else ['--no-save-vis']
    words = [*inputs, '--checkpoint', 'model/epoch_1.pth', '--out-dir', 'out']
    words += ['--score-thr', '0.4', '--batch-size', '2', *flags, *argv]
    with mock.patch.object(inference_run, 'load_predictor', load):
        return tool.run('infer', *words)


SKIPPED = 'infer.py: 3 skipped, see above.'


def expected(names):
    """predictions.json, from the definition."""
    everything = Everything(
        CATEGORIES,
        {os.path.realpath('images/7.png'): 40, os.path.realpath('images/2.png'): 17},
    )
    detector = PlainDetector()

    def look_at(name, image, **more):
        id = everything.expect(name, image, **more)
        if min(image.shape[:2]) > 1:
            everything.add(id, detector(InputImage(name, pixels=image)), 0.4)

    for name in sorted(names, key=lambda name: (name.endswith('.avi'), name)):
        if not name.endswith('.avi'):
            try:
                look_at(name, read_image(name))
            except ImageFileError:
                pass
            continue
        video = cv2.VideoCapture(name)
        frame = 0
        while (read := video.read())[0]:
            look_at(f'{name}#{frame}', read[1], video=name, frame=frame)
            frame += 1
    return everything.text()


def rows():
    return [
        json.loads(line)
        for path in sorted(Path('out/rows').glob('*.jsonl'))
        for line in path.read_text().splitlines()
    ]


def inputs():
    return [f'images/{name}' for name in os.listdir('images')]


def assert_whole():
    assert Path('out/predictions.json').read_text() == expected(inputs())
    names = [row['image'] for row in rows()]
    assert len(names) == len(set(names))
    left = {path.name for path in Path('out').iterdir()}
    assert left <= {'predictions.json', 'predictions.parquet', 'rows', 'vis'}


def test_the_file_is_what_it_was(work):
    assert infer() == SKIPPED
    assert_whole()


@pytest.mark.parametrize('draw', [False, True])
@pytest.mark.parametrize('step', [5, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_at_any_picture(work, draw, step):
    """… and resumed until nothing is left: each picture is looked at once, but for
    those that were with the detector, and frames of a video to be drawn."""
    whole = PlainDetector()
    infer(detector=whole)
    total = len(whole.seen)
    assert total > 20
    for stop in range(0, total, step):
        for path in Path('out').glob('rows/*'):
            path.unlink()
        first = PlainDetector(StopAt(stop))
        with pytest.raises(Stop):
            infer(detector=first, draw=draw)
        done = {row['image'] for row in rows()}
        second = PlainDetector()
        assert infer('--resume', detector=second, draw=draw) == SKIPPED
        assert_whole()
        again = {name for name in second.seen if name in done}
        assert all('#' in name for name in again) if draw else not again
        if not again:
            assert set(first.seen) | set(second.seen) == set(whole.seen)


def test_stopped_over_and_over(work):
    for _ in range(100):
        detector = PlainDetector(StopAt(3))
        try:
            code = infer('--resume', detector=detector)
        except Stop:
            continue
        break
    assert code == SKIPPED
    assert_whole()


@pytest.mark.parametrize('stop', range(0, FRAMES, 3))
def test_a_drawn_video_is_whole(work, stop):
    for path in Path('images').iterdir():
        if path.name != 'a.avi':
            path.unlink()
    with pytest.raises(Stop):
        infer(detector=PlainDetector(StopAt(stop)), draw=True)
    assert len(rows()) == stop - stop % 2  # whole batches
    assert infer('--resume', draw=True) == 0
    assert_whole()
    video = cv2.VideoCapture('out/vis/a.avi.mp4')
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == FRAMES


def test_frames_that_are_done_are_passed_over(work):
    with pytest.raises(Stop):
        infer(detector=PlainDetector(StopAt(4)), inputs=['images/a.avi'])
    second = PlainDetector()
    assert infer('--resume', detector=second, inputs=['images/a.avi']) == 0
    assert second.seen == [f'images/a.avi#{i}' for i in range(4, FRAMES)]


def test_ctrl_c(work, capsys):
    """A file of what is done, as always; and one can go on."""
    detector = PlainDetector(StopAt(5, KeyboardInterrupt))
    assert infer(detector=detector) == 130
    assert '--resume resumes' in capsys.readouterr().err
    content = json.loads(Path('out/predictions.json').read_text())
    done = [row for row in rows() if not row['error']]
    assert len(content['images']) == len(done) >= 3
    assert infer('--resume') == SKIPPED
    assert_whole()


def test_what_is_unfinished_is_not_overwritten(work, capsys):
    with pytest.raises(Stop):
        infer(detector=PlainDetector(StopAt(6)))
    before = rows()
    message = infer()
    assert message.startswith('infer.py: out/rows has the rows of an unfinished run')
    assert '--resume' in message and 'delete that folder' in message
    assert rows() == before


def test_what_is_finished_is_replaced(work):
    assert infer() == SKIPPED
    assert infer('--score-thr', 0.9, inputs=['images/1.png']) == 0
    assert [row['image'] for row in rows()] == ['images/1.png']
    content = json.loads(Path('out/predictions.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['images/1.png']


def test_nothing_is_left_to_do(work):
    """--resume on a finished run, which has other files since."""
    assert infer('--resume') == SKIPPED  # nor was there anything to go on with
    os.remove('out/predictions.json')
    detector = PlainDetector()
    assert infer('--resume', detector=detector) == SKIPPED
    assert not detector.seen
    assert_whole()
    cv2.imwrite('images/new.png', np.zeros((20, 30, 3), np.uint8))
    assert infer('--resume', detector=detector) == SKIPPED
    assert detector.seen == ['images/new.png']


def test_bad_ones_are_not_tried_again(work, capsys):
    assert infer() == SKIPPED
    errors = {row['image']: row['error'] for row in rows() if row['error']}
    assert set(errors) == {'images/3_text.jpg', 'images/5_line.png', 'images/b.avi'}
    assert 'it is text' in errors['images/3_text.jpg']
    picture(20, 20).save('images/3_text.jpg', 'PNG')  # mended
    capsys.readouterr()
    assert infer('--resume') == SKIPPED
    error = capsys.readouterr().err
    assert '3 were skipped by earlier runs and not tried again' in error
    assert 'infer.py: skipped ' not in error
    # … until their rows are deleted, as it says.
    (command,) = [line for line in error.splitlines() if 'sed -i' in line]
    assert os.system(command[command.index('sed -i') :]) == 0
    assert len([row for row in rows() if row['error']]) == 0
    assert infer('--resume') == 'infer.py: 2 skipped, see above.'
    assert_whole()


@pytest.mark.parametrize(
    'argv, difference',
    [
        (['--score-thr', '0.5'], 'score_thr was 0.4 and is 0.5'),
        (['--cfg-options', 'model.depth=2'], 'model.depth was 1 and is 2'),
        (['--checkpoint', 'other.pth'], 'weights was 7 bytes.* and is 5 bytes'),
    ],
)
def test_other_settings_are_refused(work, argv, difference):
    Path('other.pth').write_bytes(b'other')
    with pytest.raises(Stop):
        infer(detector=PlainDetector(StopAt(6)))
    before = rows()
    more = [] if '--cfg-options' in argv else ['--config', 'model/config.py']
    message = infer('--resume', *more, *argv)
    assert 'out/rows is of another model or other settings' in message
    assert re.search(difference, message)
    assert rows() == before


def test_pictures_that_would_be_missing(work):
    with pytest.raises(Stop):
        infer(detector=PlainDetector(StopAt(6)))
    assert 'pictures was False and is True' in infer('--resume', draw=True)


def test_a_full_disk(work, capsys):
    """One message, and what was done is not done again."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        message = infer()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out/rows/0.jsonl'" in message and '--resume resumes' in message
    assert os.strerror(errno.EFBIG) in message
    done = {row['image'] for row in rows()}
    assert len(done) > 3
    detector = PlainDetector()
    assert infer('--resume', detector=detector) == SKIPPED
    assert not done & set(detector.seen)
    assert_whole()


def test_a_folder_that_cannot_be_written(work):
    Path('out').write_text('a file')
    message = infer()
    assert "Not a directory: 'out/rows'" in message


@pytest.mark.parametrize('name', ['replace', 'fsync'])
def test_a_result_that_cannot_be_written(work, monkeypatch, name):
    real = getattr(os, name)

    def fail(one, *more):
        is_handle = isinstance(one, int)
        path = os.readlink(f'/proc/self/fd/{one}') if is_handle else os.fspath(one)
        if 'predictions.json' in path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(one, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        assert 'Read-only file system' in infer()
    assert not Path('out/predictions.json').exists()
    detector = PlainDetector()
    assert infer('--resume', detector=detector) == SKIPPED
    assert not detector.seen
    assert_whole()


def test_parquet_at_the_end(work):
    pq = pytest.importorskip('pyarrow.parquet')
    assert infer('--format', 'parquet') == SKIPPED
    table = pq.read_table('out/predictions.parquet').to_pylist()
    names = [row['image'] for row in table]
    assert len(names) == len(set(names)) == len(rows()) - 1  # but for a.avi's own
    assert 'images/caf\\xe9.png' in names
    # The same rows, in the other format.
    assert infer('--resume') == SKIPPED
    assert_whole()
    content = json.loads(Path('out/predictions.json').read_text())
    scores = [one['score'] for one in content['annotations']]
    assert [score for row in table for score in row['scores']] == scores


def test_parquet_without_pyarrow(work, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    assert 'pip install pyarrow' in infer('--format', 'parquet')
    assert not Path('out').exists()
