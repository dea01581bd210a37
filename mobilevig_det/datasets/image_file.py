"""Decode image files, or say what is wrong with them.

Images are decoded as MMDetection's ``LoadImageFromFile`` does it (mmcv, OpenCV, 8-bit
BGR): grayscale, palette, CMYK and 16-bit files are converted, alpha is dropped, the
first frame of an animation is taken, and the EXIF orientation is applied.
"""

import codecs
import io
import os
import stat

import cv2
import mmcv
import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
# Last bytes of a complete file. Files with other endings, and of other formats, are
# decoded to find out whether they are complete.
ENDINGS = dict(JPEG=b'\xff\xd9', PNG=b'IEND\xaeB`\x82', GIF=b';')


class ImageFileError(ValueError):
    """An image file that can't be used; the message says why."""


def hush_opencv() -> None:
    """Silence the messages of OpenCV about damaged files; ours say more."""
    if hasattr(cv2, 'setLogLevel'):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # quiet


def check_regular_file(path: str) -> None:
    """Check that a path is that of a regular file: a pipe or a device may never end.

    Raises:
        ImageFileError: If it is not.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ImageFileError('there is no such file') from None
    except OSError as error:
        raise ImageFileError(f'cannot be read: {error.strerror}') from None
    except ValueError:
        raise ImageFileError('its name has a character that no path has') from None
    if not stat.S_ISREG(mode):
        raise ImageFileError('it is not a regular file')


def read_image(path: str) -> np.ndarray:
    """Decode an image file.

    Args:
        path (str): The file.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR, upright.

    Raises:
        ImageFileError: If the file is missing, empty, cut off, or not an image.
    """
    check_regular_file(path)
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise ImageFileError(f'cannot be read: {error.strerror}') from None
    return decode_image(data)


def decode_image(data: bytes) -> np.ndarray:
    """Decode the content of an image file.

    Args:
        data (bytes): The content.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR, upright.

    Raises:
        ImageFileError: If it is empty, cut off, or not an image.
    """
    if not data:
        raise ImageFileError('the file is empty (0 bytes)')
    # Checked before OpenCV decodes: some versions fill missing parts with gray, others
    # print messages.
    reason = _find_damage(data)
    if reason is None:
        try:
            image = mmcv.imfrombytes(data)
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError(str(error)) from error
            image, reason = None, f'OpenCV cannot decode it: {error.err}'
        if image is not None:
            return image
    raise ImageFileError(reason or 'OpenCV cannot decode it')


def decoded_bytes(data: bytes) -> int:
    """Return how many bytes the pixels of an image file take, as its header says.

    Args:
        data (bytes): The content of the file.

    Returns:
        int: A terabyte if the header can't be read, or is refused as too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return 3 * image.width * image.height
    except Exception:
        return 2**40


def image_size(path: str) -> tuple[int, int]:
    """Return width and height of the image that :func:`read_image` returns.

    Only the beginning and the end of a file are read, unless it looks damaged.

    Args:
        path (str): The file.

    Raises:
        ImageFileError: See :func:`read_image`.
    """
    check_regular_file(path)
    try:
        with open(path, 'rb') as file, Image.open(file) as image:
            is_upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
            ending = ENDINGS.get(image.format or '')
            if is_upright and ending:
                length = os.fstat(file.fileno()).st_size
                file.seek(-min(len(ending), length), os.SEEK_END)
                if file.read() == ending:
                    return image.size
    except Exception:
        pass  # decoding tells what is wrong
    height, width = read_image(path).shape[:2]
    return width, height


def _find_damage(data: bytes) -> str | None:
    """Return why the content of a file isn't a complete image, or None if it may be."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            ending = ENDINGS.get(image.format or '')
            if ending and data.endswith(ending):
                return None
            if image.format == 'PNG' and ENDINGS['PNG'] not in data[-4096:]:
                return 'the file is cut off'
            image.load()
    except Image.UnidentifiedImageError:
        # Anything else may be of a format that OpenCV knows and Pillow doesn't.
        if _is_text(data):
            return 'it is text, not an image'
    except Image.DecompressionBombError:
        pass  # not damaged, only large
    except MemoryError:
        raise
    except Exception as error:
        return f'the file is cut off or damaged ({error})'
    return None


def _is_text(data: bytes) -> bool:
    """Whether the first bytes are printable text.

    Netpbm images, which begin with the letter P and a digit, are not.
    """
    head = data[:512]
    if head[:1] == b'P' and head[1:2].isdigit():
        return False
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(head)
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)
