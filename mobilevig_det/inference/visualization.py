"""Draw boxes, masks and labels into an image of any size.

Lines and text scale with the image, each class has one colour, and labels are placed
where they cover neither each other nor small objects.
"""

import functools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, ...]
Font = ImageFont.FreeTypeFont
Size = tuple[int, int]  # (width, height)
PlacedLabel = tuple[str, np.ndarray]  # the text and (x1, y1, x2, y2)

MASK_OPACITY = 0.4
# A box counts as small if a label would cover more than this fraction of it.
MAX_COVER = 0.15
# Maximum sum of the fractions of small boxes of other objects that a label covers.
MAX_COVER_OF_OTHERS = 0.5
# Maximum fraction of the image that all labels together cover.
MAX_LABEL_AREA = 0.2

# Environment variable with the path of the font file to use.
FONT_VARIABLE = 'MOBILEVIG_FONT'
# Parts of the file names of fonts with many characters, the best first.
PREFERRED = (
    *('notosanscjk', 'sourcehansans', 'notosanssc', 'pingfang', 'hiragino', 'msyh'),
    *('wqy', 'droidsansfallback', 'malgun', 'yugoth', 'simhei', 'arialuni', 'notosans'),
)


def draw_detections(
    image_bgr: np.ndarray,
    boxes: Any,
    labels: Any,
    scores: Any,
    names: Sequence[str],
    masks: Any = None,
    palette: Any = None,
) -> np.ndarray:
    """Draw objects into a copy of an image.

    Masks and boxes are drawn from large to small. The label of an object is its name
    and score. Where there is little room, scores are left out first, then the labels of
    the lowest scores, but never a box.

    Args:
        image_bgr (np.ndarray): uint8 of shape (H, W, 3), BGR, or (H, W), gray.
        boxes (array-like): Shape (N, 4), (x1, y1, x2, y2) in pixels. Boxes outside the
            image are not drawn.
        labels (array-like): N integers, indices into ``names``.
        scores (array-like | None): N scores, or None for annotations.
        names (Sequence[str]): Name of each class, in any script.
        masks (Sequence[np.ndarray], optional): N arrays of shape (H, W), bool or 0 and
            1. Each is read once, so that a sequence can decode them on demand.
            Defaults to None.
        palette (Sequence, optional): (r, g, b) of each class. Defaults to None. Without
            it, or if it has too few colours, :func:`class_colors` makes them.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR.
    """
    if image_bgr.ndim == 2 or image_bgr.shape[2] == 1:
        image_bgr = cv2.cvtColor(image_bgr, cv2.COLOR_GRAY2BGR)
    canvas = np.array(image_bgr, order='C')
    height, width = canvas.shape[:2]
    diagonal = float(np.hypot(height, width))
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    visible = ((boxes[:, 2:] >= 0) & (boxes[:, :2] <= (width, height))).all(1)
    boxes = np.clip(boxes, 0, (width - 1, height - 1) * 2).round().astype(int)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    # Lines are thin for small objects, and outside of the box for tiny ones.
    boxes[sides.min(1) < 16] += (-1, -1, 1, 1)
    boxes = np.clip(boxes, 0, (width - 1, height - 1) * 2)
    by_size = [i for i in np.argsort(-sides.prod(1), kind='stable') if visible[i]]
    labels = np.asarray(labels, np.int64)
    palette = class_colors(max(len(names), labels.max(initial=-1) + 1), palette)
    colors = [tuple(int(value) for value in palette[label][::-1]) for label in labels]

    line = int(np.clip(round(diagonal / 500), 1, 12))
    if masks is not None:
        for i in by_size:
            _draw_mask(canvas, masks[i], colors[i], max(1, line // 2))
    for i in by_size:
        thickness = int(np.clip(sides[i].min() // 8, 1, line))
        start, end = boxes[i].reshape(2, 2).tolist()
        cv2.rectangle(canvas, start, end, colors[i], thickness)

    font_file = find_font(frozenset('0.9…').union(*names), os.getenv(FONT_VARIABLE))
    font = ImageFont.truetype(font_file, int(np.clip(round(diagonal / 62), 8, 96)))
    # Labels of high scores are placed first.
    ranks = np.zeros(len(boxes)) if scores is None else -np.asarray(scores)
    order = [i for i in np.argsort(ranks, kind='stable') if visible[i]]
    texts = []
    for i in order:
        name = names[labels[i]] if labels[i] < len(names) else f'class {labels[i]}'
        name = _shorten(name, font, width / 2)
        texts.append([name] if scores is None else [f'{name} {scores[i]:.2f}', name])
    placed = place_labels(texts, boxes[order], font, (width, height))
    for i, label in zip(order, placed):
        if label is not None:
            _draw_label(canvas, label, font, colors[i])
    return canvas


def _draw_mask(canvas: np.ndarray, mask: Any, color: Color, thickness: int) -> None:
    """Fill a mask with a translucent colour and draw its contour."""
    mask = np.ascontiguousarray(mask, np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    mask = mask[y : y + height, x : x + width]
    below = canvas[y : y + height, x : x + width]
    above = np.full_like(below, color)
    blended = cv2.addWeighted(below, 1 - MASK_OPACITY, above, MASK_OPACITY, 0)
    np.copyto(below, blended, where=mask[..., None] > 0)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, color, thickness, offset=(x, y))


def _shorten(name: str, font: Font, width: float) -> str:
    """Return a name on one line that is at most ``width`` pixels wide."""
    name = ' '.join(name.encode(errors='replace').decode().split())[:200]
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(f'{name}…') > width:
        name = name[:-1]
    return f'{name}…'


def place_labels(
    texts: Sequence[Sequence[str]], boxes: np.ndarray, font: Font, image_size: Size
) -> list[PlacedLabel | None]:
    """Choose the text and the position of each label, one after another.

    Args:
        texts (Sequence[Sequence[str]]): Alternative texts for each of N labels: the
            first one that fits is used. Earlier labels take precedence.
        boxes (np.ndarray): Boxes of the objects in the image, int of shape (N, 4).
        font (FreeTypeFont): The font of the labels.
        image_size (tuple[int, int]): Width and height of the image in pixels.

    Returns:
        list: The text of each label and its place (x1, y1, x2, y2), or None if there is
        no room for it.
    """
    areas = np.clip(boxes[:, 2:] - boxes[:, :2] + 1, 1, None).prod(1)
    taken = np.zeros((0, 4), int)
    room = MAX_LABEL_AREA * image_size[0] * image_size[1]
    if sum(np.prod(_label_size(choices[0], font)) for choices in texts) > room:
        texts = [choices[-1:] for choices in texts]
    placed: list[PlacedLabel | None] = []
    for own, choices in enumerate(texts):
        placed.append(None)
        for text in choices:
            size = _label_size(text, font)
            area = size[0] * size[1]
            if size[0] > image_size[0] or size[1] > image_size[1] or area > room:
                continue
            places = _places(boxes[own], size, image_size)
            cover = _intersections(places, boxes) / areas
            small = area > MAX_COVER * areas
            cover_of_small = (cover * small).sum(1)
            refused = _intersections(places, taken).any(1)
            refused |= cover_of_small > MAX_COVER_OF_OTHERS
            refused |= small[own] & (cover[:, own] > 0)
            if not refused.all():
                cost = cover_of_small + 0.3 * (cover * ~small).sum(1)
                cost += 0.02 * np.arange(len(places))  # prefer the first positions
                place = places[np.where(refused, np.inf, cost).argmin()]
                taken = np.vstack([taken, place])
                room -= area
                placed[-1] = text, place
                break
    return placed


def _label_size(text: str, font: Font) -> Size:
    """Return the width and height of a label in pixels."""
    width = int(np.ceil(font.getlength(text))) + 2 * _padding(font)
    return width, sum(font.getmetrics())


def _padding(font: Font) -> int:
    """Return the space to the left and to the right of a text in pixels."""
    return max(1, round(font.size / 6))


def _places(box: np.ndarray, size: Size, image_size: Size) -> np.ndarray:
    """Return M boxes (M, 4) around and inside a box for its label, best first."""
    x1, y1, x2, y2 = box + (0, 0, 1, 1)
    width, height = size
    left, right, above, bottom = x1 - width, x2 - width, y1 - height, y2 - height
    starts = (
        *((x1, above), (x1, y1), (x1, y2), (left, y1)),
        *((right, above), (right, y1), (right, y2), (x2, y1)),
        *((x1, bottom), (right, bottom), (left, bottom), (x2, bottom)),
    )
    start = np.clip(starts, 0, np.subtract(image_size, size))
    return np.hstack([start, start + size])


def _intersections(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the areas of intersection of M and N boxes in pixels, shape (M, N)."""
    start = np.maximum(places[:, None, :2], boxes[:, :2])
    end = np.minimum(places[:, None, 2:], boxes[:, 2:] + 1)
    return np.clip(end - start, 0, None).prod(2)


def _draw_label(canvas: np.ndarray, label: PlacedLabel, font: Font, color: Color):
    """Draw black or white text on a rectangle of a colour."""
    text, (x1, y1, x2, y2) = label
    drawn = Image.new('RGB', (x2 - x1, y2 - y1), color)
    luma = np.dot(color, (0.114, 0.587, 0.299))  # of ITU-R BT.601
    fill = 'black' if luma > 120 else 'white'
    start = _padding(font), font.getmetrics()[0]
    ImageDraw.Draw(drawn).text(start, text, fill, font, anchor='ls')
    canvas[y1:y2, x1:x2] = np.asarray(drawn)


def class_colors(count: int, palette: Any = None) -> Sequence:
    """Return the colour (r, g, b) of each class.

    Args:
        count (int): The number of classes.
        palette (Sequence, optional): The colours of the data set, which are used if
            there are enough of them. Defaults to None.
    """
    if palette is None or isinstance(palette, str) or len(palette) < count:
        return _distinct_colors(count)
    return palette


@functools.lru_cache(maxsize=8)
def _distinct_colors(count: int) -> tuple[Color, ...]:
    """Choose colours that are as different as possible in CIE Lab."""
    levels = np.linspace(0, 255, 16)
    rgb = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    usable = (lightness > 40) & (lightness < 85) & (chroma > 35)
    rgb, lab = rgb[usable], lab[usable]
    chosen = int(np.abs(rgb - (221, 17, 68)).sum(1).argmin())  # crimson
    distances = np.full(len(rgb), np.inf)
    colors = []
    for _ in range(count):
        colors.append(tuple(rgb[chosen].astype(int).tolist()))
        distances = np.minimum(distances, np.linalg.norm(lab - lab[chosen], axis=1))
        chosen = int(distances.argmax())
    return tuple(colors)


@functools.lru_cache(maxsize=64)
def find_font(characters: frozenset[str], preferred: str | None = None) -> str:
    """Find the font that supports most of the given characters.

    If several fonts are equal, the order of preference is ``preferred``, Matplotlib's
    DejaVu Sans, and the system's fonts. A warning lists the unsupported characters.

    Args:
        characters (frozenset[str]): The characters.
        preferred (str, optional): The path of a font file. Defaults to None.

    Returns:
        str: The path of the font file.
    """
    best, fewest = '', sorted(characters)
    for path in _candidates(preferred):
        missing = _missing(path, characters)
        if missing is None and path == preferred:
            warnings.warn(
                f'{FONT_VARIABLE}={path} is not a readable font file; another font is '
                'used.',
                stacklevel=2,
            )
        if missing is not None and (not best or len(missing) < len(fewest)):
            best, fewest = path, missing
            if not missing:
                return best
    warnings.warn(
        f'No font here has all characters of the class names: {len(fewest)} are '
        f'drawn as rectangles, as {"".join(fewest[:5])}. Install a font that has '
        'them (for Chinese, Japanese and Korean: `apt install fonts-noto-cjk`), or '
        f'set {FONT_VARIABLE} to the path of a font file.',
        stacklevel=2,
    )
    return best


def _candidates(preferred: str | None) -> Iterator[str]:
    """Yield font files, searching those of the system only if they are needed."""
    import matplotlib

    def rank(path: str) -> tuple[int, bool, str]:
        name = re.sub('[-_]', '', Path(path).stem.lower())
        ranks = [rank for rank, part in enumerate(PREFERRED) if part in name]
        return min(ranks, default=len(PREFERRED)), 'regular' not in name, path

    if preferred:
        yield preferred
    yield str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'))
    yield from sorted(system_fonts(), key=rank)


def system_fonts() -> Iterable[str]:
    """Return the font files of the operating system."""
    from matplotlib.font_manager import findSystemFonts

    return findSystemFonts()


def _missing(path: str, characters: frozenset[str]) -> list[str] | None:
    """Return the visible characters that a font lacks; None if it is unusable."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 20)  # raises for fixed-size fonts, e.g. emojis
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return None
    if 'lastresort' in path.lower():  # It has placeholders only.
        return None
    visible = (c for c in sorted(characters) if c.isprintable() and not c.isspace())
    return [c for c in visible if not font.get_char_index(ord(c))]


@VISUALIZERS.register_module()
class DetectionVisualizer(DetLocalVisualizer):
    """MMDetection visualizer that draws with :func:`draw_detections`.

    The arguments are those of MMDetection's ``DetLocalVisualizer``, but colours,
    opacity and line width have no effect.

    Attributes:
        file_names (Mapping[str, str]): Output file name by image path. Other images
            keep their file name.
    """

    file_names: Mapping[str, str] = MappingProxyType({})

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: Any = None,
        *args,
        out_file: str | None = None,
        **kwargs,
    ) -> None:
        """Draw annotations and predictions; see ``DetLocalVisualizer``."""
        path = getattr(data_sample, 'img_path', '')
        if out_file is not None and path in self.file_names:
            out_file = os.path.join(os.path.dirname(out_file), self.file_names[path])
        super().add_datasample(
            name, image, data_sample, *args, out_file=out_file, **kwargs
        )

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: Any,
        classes: Sequence[str] | None,
        palette: Any,
    ) -> np.ndarray:
        """Return an image (RGB) with boxes, masks, names and scores drawn."""
        masks = instances.get('masks')
        if hasattr(masks, 'to_ndarray'):  # annotations
            masks = masks.to_ndarray()
        drawn = draw_detections(
            image[..., ::-1],
            getattr(instances.bboxes, 'tensor', instances.bboxes),
            instances.labels,
            instances.get('scores'),
            classes or (),
            masks,
            palette,
        )
        return np.ascontiguousarray(drawn[..., ::-1])
