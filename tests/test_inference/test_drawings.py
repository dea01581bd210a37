"""Drawn videos: whole, or one message."""

import os
import re
import resource
from pathlib import Path
from types import SimpleNamespace

from mobilevig_det.errors import UserError
from mobilevig_det.inference.drawings import Drawings
from mobilevig_det.inference.images import VideoWriter
from mobilevig_det.inference.results import Detections

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_detector import PlainDetector, make_plain_model
from test_resume import infer, rows

FRAMES = 60


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A model, and a video of noise, which becomes some 400 KB."""
    monkeypatch.chdir(tmp_path)
    make_plain_model('model')
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter('a.avi', cv2.VideoWriter_fourcc(*'MJPG'), 10, (160, 120))
    for _ in range(FRAMES):
        writer.write(rng.integers(0, 256, (120, 160, 3), np.uint8))
    writer.release()


def frames(path):
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield read[1]


class limited:
    """No file gets larger."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def draw(*argv, detector=None):
    detector = detector or PlainDetector(masks=False)  # rows stay below the limit
    return infer(*argv, detector=detector, draw=True, inputs=['a.avi'])


@pytest.mark.parametrize('limit', [60_000, 300_000])
def test_a_full_disk(limit):
    """At its first write, or later: one message; all rows stay, and it goes on."""
    with limited(limit):
        message = draw()
    assert re.match(
        r'infer.py: out/vis/a.avi.mp4: of its 60 frames 0 could be written: the disk '
        'is full, or fails. .*--resume resumes the run.$',
        message,
    )
    before = rows()
    assert [row['image'] for row in before] == [f'a.avi#{i}' for i in range(FRAMES)]
    assert draw('--resume') == 0
    after = rows()
    assert after[:-1] == before and after[-1]['image'] == 'a.avi'
    assert len(list(frames('out/vis/a.avi.mp4'))) == FRAMES


def test_a_place_that_cannot_be_written():
    os.makedirs('out/vis/a.avi.mp4')
    assert "Is a directory: 'out/vis/a.avi.mp4'" in draw()
    os.rmdir('out/vis/a.avi.mp4')
    assert draw('--resume') == 0


def test_one_that_opencv_cannot_make():
    with pytest.raises(UserError, match='--no-save-vis'):
        VideoWriter('a.mp4', 10, (1, 1))


def test_frames_that_were_left_out():
    """Whoever writes it: half of them are no whole video."""
    video = VideoWriter('folder/a.mp4', 10, (32, 16))
    for i in range(20):
        video.write(np.full((16, 32, 3), i, np.uint8))
    video.count *= 2
    with pytest.raises(OSError, match='folder/a.mp4: of its 40 frames 20 could be'):
        video.finish()


@pytest.mark.parametrize('rate', [0.5, 1, 23.976, 30000 / 1001, 60, 1000])
@pytest.mark.parametrize('count', [1, 2, 30])
def test_whole_ones(rate, count):
    """No false alarm, also of odd sizes, whose last row or column OpenCV cuts off."""
    video = VideoWriter('a.mp4', rate, (33, 47))
    for i in range(count):
        video.write(np.full((47, 33, 3), 8 * i, np.uint8))
    video.finish()
    assert [round(f.mean() / 8) for f in frames('a.mp4')] == list(range(count))


def test_frames_of_other_sizes(monkeypatch):
    """They are resized, where OpenCV would leave them out."""

    real = Detections.draw

    def cut_off(result):
        return real(result)[: 80 if result.source.frame % 3 else None]

    monkeypatch.setattr(Detections, 'draw', cut_off)
    assert draw() == 0
    assert len(list(frames('out/vis/a.avi.mp4'))) == FRAMES


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.text('ab_./\0\udce9', min_size=1, max_size=6)
        .map(lambda name: name + '.jpg')
        .map(lambda name: re.sub('/(\\./)*/*', '/', name).removeprefix('./')),
        unique=True,
        max_size=30,
    )
)
def test_no_two_inputs_of_a_list_share_a_drawing(names):
    """Nor is one drawing the folder of another, nor outside the folder."""
    names += [f'{name}/x.png' for name in names[:9]] + [f'/{name}' for name in names]
    names += ['y' * 255 + '.jpg', 'y' * 256 + '.jpg', 'a.tif', 'a.tif.jpg', 'p/.jpg']
    inputs = SimpleNamespace(streams=['list.txt'], images=[], videos=[])
    drawings = Drawings('out', inputs)
    paths = [drawings.path(name) for name in dict.fromkeys(names)]
    assert len(set(paths)) == len(paths)
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    assert not folders & set(paths)
    for path in paths:
        assert os.path.normpath(path).startswith('out/') and '\0' not in path
        assert all(len(os.fsencode(part)) <= 255 for part in path.split('/'))
        assert path.lower().endswith(('.jpg', '.png'))


def test_named_inputs_get_file_names_of_their_own():
    """Many of one name in linear time."""
    images = [f'{i}/a.jpg' for i in range(20_000)]
    drawings = Drawings('out', SimpleNamespace(streams=[], images=images, videos=[]))
    paths = [drawings.path(image) for image in images]
    assert len(set(paths)) == len(paths)
    assert paths[:3] == ['out/a.jpg', 'out/a_2.jpg', 'out/a_3.jpg']
