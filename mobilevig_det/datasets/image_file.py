"""Reading image files that may be broken.

Pictures are decoded as MMDetection's ``LoadImageFromFile`` does it (mmcv,
OpenCV, 8-bit BGR): grayscale, palette, CMYK and 16-bit files are converted,
alpha is dropped, the first frame of an animation is taken, and the EXIF
orientation is applied.
"""

import codecs
import io
import os

import cv2
import mmcv
import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
# How a whole file ends. Any other ending, and any other format, is decoded
# before it is believed.
ENDINGS = dict(JPEG=b'\xff\xd9', PNG=b'IEND\xaeB`\x82', GIF=b';')


class ImageFileError(ValueError):
    """An image file that cannot be used; the message says why."""


def hush_opencv() -> None:
    """Keep OpenCV from printing what the tools say themselves."""
    if hasattr(cv2, 'setLogLevel'):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # quiet


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        ImageFileError: If there is none.
    """
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        raise ImageFileError('there is no such file') from None
    except OSError as error:
        raise ImageFileError(f'cannot be read: {error.strerror}') from None


def read_image(path: str) -> np.ndarray:
    """Decode an image file, or say why not.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR, upright.

    Raises:
        ImageFileError: If the file is missing, empty, cut off, or not an
            image.
    """
    return decode_image(read_bytes(path))


def decode_image(data: bytes) -> np.ndarray:
    """Decode the content of an image file, or say why not: as :func:`read_image`."""
    if not data:
        raise ImageFileError('the file is empty (0 bytes)')
    # Before OpenCV, some versions of which fill up what is missing with gray,
    # others of which print lines of their own.
    reason = _incomplete(data)
    if reason is None:
        try:
            image = mmcv.imfrombytes(data)
        except cv2.error as error:
            image, reason = None, f'OpenCV cannot decode it: {error.err}'
        if image is not None:
            return image
    raise ImageFileError(reason or 'OpenCV cannot decode it')


def image_size(path: str) -> tuple[int, int]:
    """Width and height of the picture that :func:`read_image` would return.

    Reads no more than the beginning and the end of a file that looks sound.

    Raises:
        ImageFileError: As :func:`read_image`.
    """
    try:
        with open(path, 'rb') as file, Image.open(file) as image:
            upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
            ending = ENDINGS.get(image.format or '')
            if upright and ending:
                file.seek(
                    -min(len(ending), os.fstat(file.fileno()).st_size), os.SEEK_END
                )
                if file.read() == ending:
                    return image.size
    except Exception:
        # Whatever it is, decoding tells it better.
        pass
    height, width = read_image(path).shape[:2]
    return width, height


def _incomplete(data: bytes) -> str | None:
    """Why these bytes are not a whole image; None if they may be one."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            ending = ENDINGS.get(image.format or '')
            if ending and data.endswith(ending):
                return None
            if image.format == 'PNG' and ENDINGS['PNG'] not in data[-4096:]:
                return 'the file is cut off'
            image.load()
    except Image.UnidentifiedImageError:
        # Not for certain: OpenCV knows formats that Pillow doesn't.
        if _is_text(data):
            return 'it is text, not an image'
    except Image.DecompressionBombError:
        pass  # only big
    except Exception as error:
        return f'the file is cut off or damaged ({error})'
    return None


def _is_text(data: bytes) -> bool:
    """Whether the first bytes are readable (but not those of a Netpbm image,
    which begins with a letter and a digit)."""
    head = data[:512]
    if head[:1] == b'P' and head[1:2].isdigit():
        return False
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(head)
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)
