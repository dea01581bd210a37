"""Image files of every sort that people have, made on the fly."""

import io

import cv2
import numpy as np
from PIL import Image


def picture(width=160, height=120):
    """Smooth, so that JPEG changes it little; other in every corner."""
    y, x = np.mgrid[:height, :width]
    channels = (
        x * 255 // max(width - 1, 1),
        y * 255 // max(height - 1, 1),
        (x + y) * 255 // max(width + height - 2, 1),
    )
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encode(image, format='JPEG', **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def sixteen_bit(image):
    return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


def good_files():
    """File name -> bytes. All can be used."""
    image = picture()
    second = image.rotate(90)
    files = {
        'plain.jpg': encode(image),
        'plain.png': encode(image, 'PNG'),
        'grayscale.jpg': encode(image.convert('L')),
        '16-bit.png': encode(sixteen_bit(image), 'PNG'),
        '16-bit.tif': encode(sixteen_bit(image), 'TIFF'),
        'cmyk.jpg': encode(image.convert('CMYK')),
        'palette.png': encode(image.quantize(200), 'PNG'),
        'rgba.png': encode(image.convert('RGBA'), 'PNG'),
        'animated.png': encode(image, 'PNG', save_all=True, append_images=[second]),
        'animated.webp': encode(image, 'WEBP', save_all=True, append_images=[second]),
        'rotated.jpg': encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif(6)),
        'no-suffix': encode(image),
        'bytes-after-the-end.jpg': encode(image) + b'\n',
    }
    if cv2.imdecode(np.frombuffer(encode(image, 'GIF'), np.uint8), 1) is None:
        return files  # an OpenCV before 4.11
    return {
        **files,
        'animated.gif': encode(image, 'GIF', save_all=True, append_images=[second]),
    }


def bad_files():
    """File name -> (bytes, what is to be said of it). None can be used."""
    image = picture()
    jpeg, png = encode(image), encode(image, 'PNG')
    return {
        'truncated.jpg': (jpeg[: len(jpeg) // 2], 'cut off'),
        'truncated-a-bit.jpg': (jpeg[:-9], 'cut off'),
        'truncated.png': (png[: len(png) // 2], 'cut off'),
        'truncated-a-bit.png': (png[:-8], 'cut off'),
        'truncated.webp': (encode(image, 'WEBP')[:400], 'cut off'),
        'truncated.gif': (encode(image, 'GIF')[:4000], 'cut off'),
        'zero-byte.jpg': (b'', 'empty'),
        'text.jpg': ("Ceci n'est pas une image été.\n".encode(), 'text'),
        'html.jpg': (b'<html><body>404 Not Found</body></html>', 'text'),
        'noise.jpg': (bytes(range(256)) * 8, 'cannot decode'),
    }


def photo(width, height, seed=0):
    """Edges and noise, so that there is something to tell apart."""
    rng = np.random.default_rng(seed)
    image = np.asarray(picture(width, height)).copy()
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.circle(image, (int(x), int(y)), 25, color, -1)
    return image
