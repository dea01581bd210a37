"""Pictures of detections: what is drawn, where, and in which colours."""

import threading

from mobilevig_det.inference import visualization
from mobilevig_det.inference.visualization import (
    class_colors,
    draw_detections,
    place_labels,
)

import cv2
import numpy as np
import pytest
from PIL import ImageFont

NAMES = ['person', 'dog']
RED, GREEN = (255, 0, 0), (0, 255, 0)


def gray(height, width):
    return np.full((height, width, 3), 90, np.uint8)


@pytest.fixture
def placed(monkeypatch):
    """The labels that ``draw_detections`` draws: text and box."""
    labels = []
    real = visualization._draw_label

    def record(canvas, label, font, color):
        labels.append((label[0], label[1].tolist()))
        real(canvas, label, font, color)

    monkeypatch.setattr(visualization, '_draw_label', record)
    return labels


def overlap(a, b):
    return np.prod(
        np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    )


def random_boxes(count, height, width, longest, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, (width, height), (count, 2))
    return np.hstack([start, start + rng.uniform(2, longest, (count, 2))])


@pytest.mark.parametrize('size', [(96, 128), (480, 640), (3000, 4000)])
@pytest.mark.parametrize('count', [2, 12, 150])
def test_labels_overlap_neither_each_other_nor_the_edge(size, count, placed):
    height, width = size
    boxes = random_boxes(count, height, width, max(size) / 5)
    scores = np.linspace(1, 0.3, count)
    draw_detections(gray(*size), boxes, np.arange(count) % 2, scores, NAMES)
    assert placed
    places = np.array([place for _, place in placed])
    assert (places[:, :2] >= 0).all() and (places[:, 2:] <= (width, height)).all()
    for i, place in enumerate(places):
        assert not any(overlap(place, other) for other in places[:i])
    covered = (places[:, 2:] - places[:, :2]).prod(1).sum()
    assert covered <= visualization.MAX_LABEL_AREA * height * width
    if count == 2:
        assert [text for text, _ in placed] == ['person 1.00', 'dog 0.30']


@pytest.mark.parametrize('x', [0, 200, 619])
@pytest.mark.parametrize('y', [0, 200, 459])
@pytest.mark.parametrize('side', [3, 20])
def test_labels_do_not_cover_their_own_small_object(x, y, side, placed):
    image = np.random.default_rng(0).integers(0, 200, (480, 640, 3), np.uint8)
    box = [x, y, x + side, y + side]
    drawn = draw_detections(image, [box], [0], [0.9], NAMES, palette=[RED, GREEN])
    ((text, place),) = placed
    assert text == 'person 0.90' and overlap(np.array(box), np.array(place)) == 0
    gap = np.maximum(np.subtract(place[:2], box[2:]), np.subtract(box[:2], place[2:]))
    assert gap.max() <= 3  # at the object
    # The object can be seen inside the box.
    inside = slice(y + 2, y + side - 1), slice(x + 2, x + side - 1)
    np.testing.assert_array_equal(drawn[inside], image[inside])


def test_labels_avoid_small_objects_of_others(placed):
    # The usual place, above the first box, would hide the second object.
    boxes = [[100, 100, 200, 200], [105, 84, 135, 98]]
    draw_detections(gray(480, 640), boxes, [0, 1], [0.9, 0.8], NAMES)
    assert len(placed) == 2
    for _, place in placed:
        assert overlap(np.array(boxes[1]), np.array(place)) == 0


def test_labels_of_large_objects_at_the_top_are_inside(placed):
    draw_detections(gray(480, 640), [[0, 0, 639, 479]], [1], [0.5], NAMES)
    assert placed[0][1][:2] == [0, 0]


def test_crowds_lose_scores_then_labels_of_low_scores_but_no_boxes(placed):
    boxes = [[x, y, x + 2, y + 2] for y in range(12, 90, 15) for x in range(2, 110, 21)]
    count = len(boxes)
    scores = np.random.default_rng(0).permutation(count) / 100
    palette = [(i + 1, 0, 0) for i in range(count)]
    names = [f'n{i}' for i in range(count)]
    drawn = draw_detections(
        gray(96, 128), boxes, range(count), scores, names, palette=palette
    )
    texts = [text for text, _ in placed]
    assert 5 < len(texts) < count - 5
    assert texts == [names[i] for i in np.argsort(-scores)[: len(texts)]]
    for color in palette:
        assert (drawn == color[::-1]).all(-1).any()

    placed.clear()
    draw_detections(gray(96, 128), boxes[:2], [0, 1], [0.9, 0.8], names)
    assert [text for text, _ in placed] == ['n0 0.90', 'n1 0.80']


def test_a_later_text_is_taken_where_the_first_has_no_place():
    font = ImageFont.truetype(visualization.find_font(frozenset('a')), 10)
    box = np.array([[0, 0, 59, 199]])
    texts = [['a' * 50, 'a']]
    assert place_labels(texts, box, font, (60, 200))[0][0] == 'a'
    assert place_labels([['a' * 50]], box, font, (60, 200)) == [None]


@pytest.mark.parametrize('palette', [None, 'random', [RED]])
def test_colors_are_distinct_for_any_number_of_classes(palette):
    for count in 2, 20, 80, 200:
        colors = np.array(class_colors(count, palette))
        assert colors.shape == (count, 3) and colors.min() >= 0 and colors.max() < 256
        lab = cv2.cvtColor(np.float32(colors / 255)[None], cv2.COLOR_RGB2Lab)[0]
        distances = np.linalg.norm(lab[:, None] - lab, axis=2)
        # Those of MMDetection for the 80 classes of COCO are 13.7 apart.
        assert distances[~np.eye(count, dtype=bool)].min() > (17 if count <= 80 else 11)
        assert (colors[:2] == class_colors(200)[:2]).all()
    assert len(class_colors(5000)) == 5000


def test_the_palette_of_a_data_set_is_used_if_it_is_long_enough():
    image = gray(100, 100)
    boxes, labels = [[10, 10, 50, 50], [60, 60, 90, 90]], [0, 1]
    drawn = draw_detections(image, boxes, labels, None, NAMES, None, [RED, GREEN])
    assert (drawn[30, 10] == RED[::-1]).all() and (drawn[75, 60] == GREEN[::-1]).all()
    drawn = draw_detections(image, boxes, labels, None, NAMES, None, [RED])
    for pixel, color in zip((drawn[30, 10], drawn[75, 60]), class_colors(2)):
        assert (pixel == color[::-1]).all()


def test_lines_and_text_scale_with_the_image(placed):
    widths, heights = [], []
    for scale in 1, 4, 16:
        image = gray(200 * scale, 250 * scale)
        box = np.array([[50, 50, 200, 150]]) * scale
        drawn = draw_detections(image, box, [0], [0.9], NAMES, None, [RED, GREEN])
        row = drawn[100 * scale, : 100 * scale]
        widths.append((row != 90).any(-1).sum())
        heights.append(placed[-1][1][3] - placed[-1][1][1])
    assert widths[0] in (1, 2) and widths[0] < widths[1] < widths[2] <= 14
    assert heights[0] < heights[1] < heights[2]


def test_masks_are_translucent_with_a_contour_and_small_ones_are_on_top():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    masks = np.zeros((2, 200, 300), bool)
    masks[0, 60:100, 60:100] = True
    masks[1, 20:180, 20:280] = True
    boxes = [[60, 60, 100, 100], [20, 20, 280, 180]]
    palette = [RED, GREEN]
    drawn = draw_detections(image, boxes, [0, 1], [0.1, 0.9], NAMES, masks, palette)
    assert (drawn[60, 62:98] == RED[::-1]).all()  # box and contour, on top of green
    opacity = visualization.MASK_OPACITY
    expected = image[150, 150] * (1 - opacity) + np.array(GREEN) * opacity
    np.testing.assert_allclose(drawn[150, 150], expected, atol=1)
    expected = image[80, 80] * (1 - opacity) + np.array(GREEN) * opacity
    expected = expected * (1 - opacity) + np.array(RED[::-1]) * opacity
    np.testing.assert_allclose(drawn[80, 80], expected, atol=2)
    np.testing.assert_array_equal(drawn[:, 284:], image[:, 284:])
    # The contour has the colour of its class.
    masks[0] = cv2.circle(np.zeros((200, 300), np.uint8), (80, 80), 15, 1, -1)
    drawn = draw_detections(image, boxes[:1], [0], None, NAMES, masks[:1], palette)
    assert (drawn[80, 65] == RED[::-1]).all() and (drawn[80, 95] == RED[::-1]).all()


def test_the_input_is_not_changed_and_pictures_are_the_same_in_threads():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    before = image.copy()
    boxes = random_boxes(30, 300, 400, 90)
    masks = np.random.default_rng(1).random((30, 300, 400)) > 0.99
    arguments = image, boxes, np.arange(30) % 2, np.linspace(1, 0, 30), NAMES, masks
    expected = draw_detections(*arguments)
    pictures = []
    threads = [
        threading.Thread(target=lambda: pictures.append(draw_detections(*arguments)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pictures) == 4
    for picture in pictures:
        np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(image, before)
    assert (expected != image).any()


@pytest.mark.parametrize(
    'shape', [(1, 1), (1, 1, 1), (1, 500, 3), (500, 1, 3), (60, 80)]
)
def test_odd_boxes_and_images(shape):
    image = np.full(shape, 7, np.uint8)
    height, width = shape[:2]
    boxes = [
        [0, 0, 0, 0],
        [0, 0, width, height],
        [width, height, width, height],
        [-50, -50, 2 * width, 2 * height],
        [-1e30, -np.inf, 1e30, np.inf],
        [-30, -30, -20, -20],  # outside
        [5, 5, 2, 2],
    ]
    names = ['x' * 200, '', 'two\nlines\t', 'null\0', '\ud800', 'שלום', 'é' * 200]
    masks = np.zeros((7, *shape[:2]), bool)
    masks[1:3] = True
    for given in None, masks:
        drawn = draw_detections(image, boxes, range(7), [0.5] * 7, names, given)
        assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8
        assert (drawn != 7).any()
    # More labels than names, and no objects at all
    assert draw_detections(image, boxes, [9] * 7, None, ['a']).shape == drawn.shape
    for none in [], np.zeros((0, 4), np.float32):
        assert (draw_detections(image, none, [], [], names, []) == 7).all()


def test_long_names_are_cut_off_before_the_score(placed):
    draw_detections(gray(480, 640), [[100, 100, 300, 300]], [0], [0.5], ['x' * 200])
    ((text, place),) = placed
    assert text.endswith('x… 0.50') and place[2] - place[0] < 640 * 0.6


class FakeFont:
    """Stands in for Matplotlib's reader of fonts: fonts by the file's name."""

    characters = {'NotoSansCJK-Regular': 'ab猫', 'Serif': 'ab猫', 'Hindi': 'abकि'}

    def __init__(self, path):
        stem = path.rpartition('/')[2].partition('.')[0]
        if stem == 'Emoji':
            raise RuntimeError('a font of one size')
        self.has = self.characters.get(stem, 'ab')

    def get_char_index(self, code):
        return int(chr(code) in self.has)


@pytest.fixture
def system(monkeypatch):
    """Some fonts of a system."""
    names = ['Serif.ttf', 'Emoji.ttf', 'LastResort.ttf', 'Hindi.otf']
    files = [f'/fonts/{name}' for name in [*names, 'NotoSansCJK-Regular.ttc']]
    monkeypatch.setattr(visualization, 'system_fonts', lambda: files)
    monkeypatch.setattr('matplotlib.ft2font.FT2Font', FakeFont)
    monkeypatch.setattr(ImageFont, 'truetype', lambda path, size: None)
    visualization.find_font.cache_clear()
    yield files
    visualization.find_font.cache_clear()


def find(characters, *arguments):
    return visualization.find_font(frozenset(characters), *arguments).rpartition('/')[2]


def test_fonts_are_chosen_by_the_characters_of_the_names(system, recwarn):
    assert find('ab') == 'DejaVuSans.ttf'
    assert find('a b\u200d') == 'DejaVuSans.ttf'  # invisible characters don't count
    assert find('a猫') == 'NotoSansCJK-Regular.ttc'
    assert find('aक') == 'Hindi.otf'
    assert find('ab', '/fonts/Serif.ttf') == 'Serif.ttf'
    assert find('aक', '/fonts/Serif.ttf') == 'Hindi.otf'
    assert not recwarn


def test_one_warning_says_what_to_install_if_no_font_has_the_characters(system):
    with pytest.warns(
        UserWarning, match='1 are drawn as.* 鳥.*fonts-noto-cjk.*FONT'
    ) as w:
        assert find('a猫鳥') == 'NotoSansCJK-Regular.ttc'  # the most of them
    assert len(w) == 1
    with pytest.warns(UserWarning, match='MOBILEVIG_FONT=/fonts/Emoji.ttf is not a'):
        assert find('ab', '/fonts/Emoji.ttf') == 'DejaVuSans.ttf'


def test_the_warning_comes_once_a_data_set(system, recwarn):
    for _ in range(3):
        find('鳥')
    assert len(recwarn) == 1


def test_a_font_file_can_be_named(monkeypatch):
    """A real one, whose letters differ from those of the default."""
    import matplotlib

    image = gray(200, 300)
    drawn = draw_detections(image, [[50, 50, 250, 150]], [0], [0.5], NAMES)
    monkeypatch.setenv(
        visualization.FONT_VARIABLE,
        f'{matplotlib.get_data_path()}/fonts/ttf/STIXGeneral.ttf',
    )
    other = draw_detections(image, [[50, 50, 250, 150]], [0], [0.5], NAMES)
    assert (drawn != other).any()
