import cv2
import numpy as np
import pytest
import tiny_coco
import tool
from bad_images import picture


@pytest.fixture
def root(tmp_path):
    """A set whose images are gray, and whose pipeline mirrors them."""
    tiny_coco.write(tmp_path, 'train')
    for i in range(1, 5):
        gray = picture(160, 120).point(lambda value: 128)
        gray.save(tmp_path / 'train' / f'{i}.jpg', quality=100)
    cfg = tiny_coco.config(tmp_path)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(320, 240), keep_ratio=True),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackDetInputs'),
    ]
    cfg.visualizer = dict(type='DetLocalVisualizer', name='visualizer')
    cfg.dump(tmp_path / 'config.py')
    return tmp_path


def test_objects_are_drawn_where_augmentation_put_them(root, capsys):
    out = root / 'out'
    assert tool.run('browse_data', root / 'config.py', '--out-dir', out) == 0
    # The one without objects is filtered out, as in training.
    assert sorted(path.name for path in out.iterdir()) == [
        '000000_1.jpg',
        '000001_2.jpg',
        '000002_3.jpg',
    ]
    assert '3 of the 3 images' in capsys.readouterr().out
    drawn = cv2.imread(str(out / '000002_3.jpg')).astype(int)
    assert drawn.shape == (240, 320, 3)
    coloured = np.abs(drawn - 128).max(-1) > 24
    x, y, w, h = (8, 10, 40, 30)  # of annotation 104, before
    inside = np.zeros((240, 320), bool)
    inside[2 * y : 2 * (y + h), 320 - 2 * (x + w) : 320 - 2 * x] = True
    assert coloured[inside].mean() > 0.9
    margin = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9)))
    below = slice(2 * (y + h), None)  # the name may reach over the top
    assert coloured[below][margin[below] == 0].mean() < 0.01


def test_bad_data_points_to_check_data(root, capsys):
    (root / 'train' / '1.jpg').write_bytes(b'')
    message = tool.run('browse_data', root / 'config.py', '--out-dir', root / 'out')
    assert f'tools/check_data.py {root}/config.py' in message


def test_missing_data_is_named(root):
    message = tool.run(
        'browse_data',
        root / 'config.py',
        '--cfg-options',
        'train_dataloader.dataset.ann_file=missing.json',
    )
    assert 'missing.json' in message
