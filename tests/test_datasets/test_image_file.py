import os
import warnings

from mobilevig_det.datasets.image_file import ImageFileError, image_size, read_image

import numpy as np
import pytest
from bad_images import bad_files, encode, exif, good_files, picture
from mmcv.transforms import LoadImageFromFile
from PIL import Image


@pytest.mark.parametrize('name', good_files())
def test_usable_files_are_read_as_mmdetection_reads_them(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(good_files()[name])
    image = read_image(str(path))
    assert image.shape == (120, 160, 3) and image.dtype == np.uint8
    assert image_size(str(path)) == (160, 120)
    loaded = LoadImageFromFile()(dict(img_path=str(path)))['img']
    assert np.array_equal(image, loaded)
    # Against what was drawn, not only against OpenCV.
    drawn = picture()
    if name.startswith(('gray', '16')):
        drawn = drawn.convert('L').convert('RGB')
    difference = np.abs(image[..., ::-1].astype(int) - np.asarray(drawn))
    assert difference.mean() < 6


@pytest.mark.parametrize('name', bad_files())
def test_broken_files_are_named_with_a_reason(name, tmp_path):
    data, reason = bad_files()[name]
    path = tmp_path / name
    path.write_bytes(data)
    for function in read_image, image_size:
        with pytest.raises(ImageFileError, match=reason):
            function(str(path))


def test_unreadable_files(tmp_path):
    folder = tmp_path / 'folder.jpg'
    folder.mkdir()
    link = tmp_path / 'link.jpg'
    link.symlink_to('nowhere')
    for function in read_image, image_size:
        with pytest.raises(ImageFileError, match='no such file'):
            function(str(tmp_path / 'missing.jpg'))
        with pytest.raises(ImageFileError, match='no such file'):
            function(str(link))
        with pytest.raises(ImageFileError, match='not a regular file'):
            function(str(folder))
        if os.getuid() != 0:
            link.with_name('secret.jpg').write_bytes(encode(picture()))
            link.with_name('secret.jpg').chmod(0)
            with pytest.raises(ImageFileError, match='Permission denied'):
                function(str(link.with_name('secret.jpg')))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP'])
def test_size_is_that_of_the_picture_as_it_is_loaded(format, orientation, tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(encode(picture(160, 120), format, exif=exif(orientation)))
    height, width = read_image(str(path)).shape[:2]
    assert image_size(str(path)) == (width, height)
    if format == 'JPEG':
        assert (width > height) == (orientation <= 4)


@pytest.mark.parametrize('size', [(1, 90), (90, 1), (1, 1), (20000, 3)])
def test_extreme_shapes(size, tmp_path):
    path = str(tmp_path / 'image.png')
    picture(*size).save(path)
    assert read_image(path).shape == (size[1], size[0], 3)
    assert image_size(path) == size


def test_a_big_picture_is_not_taken_for_an_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    path = tmp_path / 'big.png'
    path.write_bytes(encode(picture(), 'PNG'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert read_image(str(path)).shape == (120, 160, 3)
        assert image_size(str(path)) == (160, 120)
