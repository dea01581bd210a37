"""tools/infer.py on videos."""

import cv2
from bad_images import photo


def make_video(path, frames, codec='MJPG'):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (96, 64))
    for i in range(frames):
        writer.write(photo(96, 64, i))
    writer.release()


def test_video(infer, tmp_path):
    path = tmp_path / 'clip.avi'
    make_video(path, 7)
    code, content = infer(path, '--batch-size', 3, '--score-thr', 0.95, draw=True)
    assert code == 0
    assert [i['frame'] for i in content['images']] == list(range(7))
    assert {i['video'] for i in content['images']} == {str(path)}
    video = cv2.VideoCapture(str(tmp_path / 'out' / 'vis' / 'clip.avi.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == 10
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            break
        frames.append(frame)
    assert len(frames) == 7 and frames[0].shape == (64, 96, 3)


def test_bad_videos(infer, tmp_path, capsys):
    whole, short = tmp_path / 'whole.avi', tmp_path / 'short.avi'
    make_video(whole, 20)
    data = whole.read_bytes()
    short.write_bytes(data[: len(data) // 2])
    (tmp_path / 'empty.mp4').write_bytes(b'')
    (tmp_path / 'text.mp4').write_text('not a video\n' * 100)
    code, content = infer(
        short, tmp_path / 'empty.mp4', tmp_path / 'text.mp4', tmp_path / 'missing.mp4'
    )
    assert code == 'infer.py: 4 skipped, see above.'
    count = len(content['images'])
    assert 5 <= count <= 12
    error = capsys.readouterr().err
    assert (
        f'skipped the end of {short}: the video breaks off after {count} of 20 frames'
    ) in error
    for name in 'empty.mp4', 'text.mp4':
        assert f'skipped {tmp_path}/{name}: OpenCV cannot open it' in error
    assert f'skipped {tmp_path}/missing.mp4: there is no such file' in error
