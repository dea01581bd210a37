"""What tools/check_data.py and the check before training say of bad images."""

from mobilevig_det.datasets.data_check import check_before_training, check_data
from mobilevig_det.errors import UserError

import cv2
import pytest
import tiny_coco
from bad_images import bad_files, encode, exif, good_files, picture
from tiny_coco import load_and_evaluate


@pytest.mark.parametrize('name', bad_files())
def test_bad_images(name, root):
    data, reason = bad_files()[name]
    (root / 'train' / '2.jpg').write_bytes(data)
    (root / 'train' / '4.jpg').write_bytes(data)  # without objects: not read
    for decode in True, False:
        findings = check_data(
            tiny_coco.config(root), ['train'], decode=decode, progress=False
        ).findings
        assert [(f.record, f.stops) for f in findings] == [
            ('image 20', True),
            ('image 40', False),
        ]
        assert all(reason in f.detail for f in findings)
    with pytest.raises(UserError, match='image 20.*2.jpg'):
        check_before_training(tiny_coco.config(root))
    with pytest.raises(Exception):  # noqa: B017
        load_and_evaluate(tiny_coco.config(root), 'train')


@pytest.mark.parametrize('name', good_files())
def test_images_of_other_kinds_train(name, root):
    (root / 'train' / '2.jpg').write_bytes(good_files()[name])
    assert check_data(tiny_coco.config(root), ['train'], progress=False).findings == []
    check_before_training(tiny_coco.config(root))
    load_and_evaluate(tiny_coco.config(root), 'train')


def test_missing_and_mismatched_images(root):
    (root / 'train' / '1.jpg').unlink()
    (root / 'train' / '2.jpg').write_bytes(encode(picture(120, 160)))
    (root / 'train' / '3.jpg').write_bytes(encode(picture(), exif=exif(6)))
    findings = check_data(tiny_coco.config(root), ['train'], progress=False).findings
    assert [f.record for f in findings] == ['image 10', 'image 20', 'image 30']
    assert all(f.stops for f in findings)
    assert 'there is no such file' in findings[0].detail
    for finding in findings[1:]:
        assert finding.kind == 'image of another size than stated'
        assert '120 x 160 (upright) instead of 160 x 120' in finding.detail


def test_narrow_and_wide_images(root):
    """One pixel wide: left out of training, as filter_cfg asks. 20,000 wide:
    used, if the pipeline's scale leaves it a pixel of height."""
    data = tiny_coco.content()
    data['images'][0].update(width=1)
    data['images'][1].update(width=20000, height=100)
    data['annotations'] = [
        tiny_coco.annotation(1, 10, 3, (0, 0, 1, 100)),
        tiny_coco.annotation(2, 20, 3, (15000, 10, 400, 80)),
    ]
    data['categories'] = data['categories'][:1]
    tiny_coco.write(root, 'train', data)
    picture(1, 120).save(root / 'train' / '1.jpg')
    picture(20000, 100).save(root / 'train' / '2.jpg')
    cfg = tiny_coco.config(root, classes=('circle',))
    resize = cfg.train_dataloader.dataset.pipeline[2]
    resize.scale = (1333, 800)
    findings = check_data(cfg, ['train'], progress=False).findings
    assert [(f.record, f.stops) for f in findings] == [('image 10', False)]
    assert 'a side under 32 pixels' in findings[0].kind
    load_and_evaluate(cfg, 'train')

    resize.scale = (96, 64)
    findings = check_data(cfg, ['train'], progress=False).findings
    assert [(f.record, f.stops) for f in findings] == [
        ('image 10', False),
        ('image 20', True),
    ]
    assert 'to 96 x 0 pixels' in findings[1].detail
    with pytest.raises(cv2.error):
        load_and_evaluate(cfg, 'train')
