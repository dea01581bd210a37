#!/usr/bin/env python
"""Detect objects in images with an exported detector (.onnx or .xml).

Needs NumPy, OpenCV and onnxruntime (or openvino), and no other file: copy it into
what you build. `Detector` is the part to call; the rest is the command.
"""

import argparse
import functools
import glob
import json
import math
import os
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

SUFFIXES = tuple('.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif'.split())
DRAWN_AS = ('.jpg', '.jpeg', '.png', '.bmp')


class Unusable(ValueError):
    """A model or an image that can't be used; the message says why."""


def load(path):
    """(a function from named arrays to named arrays, the model's metadata)."""
    reader = {'.onnx': _onnxruntime, '.xml': _openvino}.get(Path(path).suffix)
    if reader is None or not Path(path).is_file():
        raise Unusable(f'There is no model (.onnx, .xml) {path!r}.')
    try:
        run, text = reader(path)
    except ImportError as error:
        raise Unusable(f'{error}: pip install {error.name}') from None
    except Exception as error:  # each runtime has types of its own
        raise Unusable(f'{path} cannot be loaded: {str(error).strip()}') from None
    metadata = json.loads(text or '{}')
    if metadata.get('part') != 'detector' or metadata['format'] != 1:
        has = f'a {metadata["part"]} of format {metadata["format"]}' if text else 'none'
        raise Unusable(
            f'{path} is not a detector that tools/export.py wrote (--part detector, '
            f'format 1). Its metadata says: {has}.'
        )
    return run, metadata


def _onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    text = session.get_modelmeta().custom_metadata_map.get('mobilevig_det')
    return lambda arrays: dict(zip(names, session.run(names, arrays))), text


@functools.cache
def _openvino_core():
    """One for all models: several spoil the stack that Python's signals need."""
    with mock.patch.dict(os.environ, CI='true'):  # or it reports its use
        import openvino
    return openvino.Core()


def _openvino(path):
    core = _openvino_core()
    model = core.read_model(path)
    known = model.has_rt_info('mobilevig_det')
    text = model.get_rt_info('mobilevig_det').astype(str) if known else None
    # In bfloat16, which some CPUs have, boxes would move.
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    names = [output.get_any_name() for output in model.outputs]
    return lambda arrays: dict(zip(names, compiled(arrays).values())), text


class Detector:
    """An exported detector: ``Detector(path)(image)``."""

    def __init__(self, path):
        self.run, self.metadata = load(path)

    def __call__(self, image, score_thr=0.0):
        """Detect in an image: uint8, (H, W, 3), BGR, as cv2.imread returns it.

        Returns by falling score, from score_thr on: ``boxes`` (N, 4), x1 y1 x2 y2 in
        pixels; ``labels`` (N,), places in metadata['classes']; ``scores`` (N,); and
        ``masks``, N bool arrays (H, W), if the model has masks.
        """
        tensor, size, scale = prepare(image, self.metadata)
        found = self.run({'image': tensor, 'size': np.array(size, np.int64)})
        found = {k: v[found['scores'] >= score_thr] for k, v in found.items()}
        found['boxes'] = found['boxes'] / np.array(scale * 2, np.float32)
        if masks := self.metadata['masks']:
            shape, threshold = image.shape[:2], masks['threshold']
            found['masks'] = [
                paste_in_box(mask, box, shape, threshold)
                if masks['kind'] == 'box'
                else paste_image(mask, shape, scale, masks['stride'], threshold)
                for mask, box in zip(found['masks'], found['boxes'])
            ]
        return found


def prepare(image, metadata):
    """MMDetection's Resize, Pad and DetDataPreprocessor: float32 (1, 3, H, W), (height,
    width) before the last padding, and the (x, y) factors of the resizing."""
    height, width = image.shape[:2]
    if metadata['resize']:
        new = tuple(metadata['resize']['scale'])
        if metadata['resize']['keep_ratio']:
            long, short = max(new), min(new)
            factor = min(long / max(height, width), short / min(height, width))
            new = int(width * factor + 0.5), int(height * factor + 0.5)
        try:
            image = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
        except cv2.error:
            raise Unusable(f'{width} x {height} pixels cannot become {new}') from None
    scale = image.shape[1] / width, image.shape[0] / height
    if metadata.get('pad'):
        image = _pad(image, *metadata['pad']['size'], metadata['pad']['value'])
    size = image.shape[:2]
    if metadata['bgr_to_rgb']:
        image = image[..., ::-1]
    mean, std = np.float32(metadata['mean']), np.float32(metadata['std'])
    image = (image.astype(np.float32) - mean) / std
    divisor = metadata['pad_size_divisor']
    padded = [-(-side // divisor) * divisor for side in size]
    image = _pad(image, *padded, metadata['pad_value'])
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None]), size, scale


def _pad(image, height, width, value):
    bottom, right = height - image.shape[0], width - image.shape[1]
    value = value if isinstance(value, (list, tuple)) else [value] * 3
    sides = (0, max(bottom, 0), 0, max(right, 0))
    return cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=value)


def paste_in_box(mask, box, shape, threshold):
    """A mask (28, 28) of a box in an image of a shape: FCNMaskHead's pasting, which
    is grid_sample (bilinear, zeros outside, align_corners=False)."""
    x1, y1, x2, y2 = np.float32(box)
    columns = slice(max(math.floor(x1) - 1, 0), min(math.ceil(x2) + 1, shape[1]))
    rows = slice(max(math.floor(y1) - 1, 0), min(math.ceil(y2) + 1, shape[0]))
    x, x_weights = _samples(columns, x1, x2, mask.shape[1])
    y, y_weights = _samples(rows, y1, y2, mask.shape[0])
    mask, value = np.pad(mask, (1, 2)), 0  # zeros outside
    for i, j in (0, 0), (0, 1), (1, 0), (1, 1):
        weights = y_weights[i][:, None] * x_weights[j]
        value = value + mask[y[:, None] + i, x + j] * weights
    pasted = np.zeros(shape, bool)
    pasted[rows, columns] = value >= threshold
    return pasted


def _samples(pixels, low, high, size):
    """For pixels along a side: the mask's sample before each, counted from the one
    outside, and the weights of it and of the next one."""
    pixels = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        at = (pixels - low) / (high - low) * 2 - 1
    at[np.isinf(at)] = 0  # a box without area: as MMDetection has it
    at = np.clip(np.nan_to_num(((at + 1) * size - 1) / 2, nan=-1), -1, size)
    before = np.floor(at)
    return before.astype(int) + 1, (1 - (at - before), at - before)


def paste_image(mask, shape, scale, stride, threshold):
    """A mask of the whole padded image at a stride: RTMDet-Ins's, which resizes
    logits twice (and takes the x factor for the height, and y's for the width)."""
    mask = np.clip(mask.astype(np.float64), 1e-30, 1 - 3e-8)
    logits = (np.log(mask) - np.log1p(-mask)).astype(np.float32)
    height, width = (side * stride for side in mask.shape)
    logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    height, width = (
        math.ceil(height * (1 / scale[0])),
        math.ceil(width * (1 / scale[1])),
    )
    logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    pasted = logits[: shape[0], : shape[1]] > math.log(threshold / (1 - threshold))
    pasted = cv2.resize(pasted.astype(np.uint8), shape[::-1], interpolation=0)
    return pasted.astype(bool)  # of the image's shape, where those were swapped


def encode(mask):
    """COCO's compressed run lengths of a mask (H, W), column by column."""
    flat = np.concatenate([[0], mask.T.ravel(), [2]]).astype(np.int8)
    runs = np.diff([0, *np.flatnonzero(np.diff(flat))]).tolist()
    text = ''
    for i, run in enumerate(runs):
        # From the fourth on, the difference to the one before last; five bits a letter.
        value, more = run - runs[i - 2] if i > 2 else run, True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return dict(size=list(mask.shape), counts=text)


def annotation(found, i, image_id):
    """The COCO annotation of one of the things that were found."""
    x1, y1, x2, y2 = found['boxes'][i].tolist()
    category, score = int(found['labels'][i]) + 1, float(found['scores'][i])
    result = dict(image_id=image_id, category_id=category, score=score, iscrowd=0)
    result.update(area=(x2 - x1) * (y2 - y1), bbox=[x1, y1, x2 - x1, y2 - y1])
    if 'masks' in found:
        mask = found['masks'][i]
        result.update(area=float(mask.sum()), segmentation=encode(mask))
    return result


def read_image(path):
    """uint8 (H, W, 3), BGR, upright; gray and alpha as cv2.imread has them."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Unusable(f'cannot be read: {error.strerror}') from None
    # Some versions of OpenCV fill up what is missing with gray.
    ends = {b'\xff\xd8': b'\xff\xd9', b'\x89P': b'IEND\xaeB`\x82', b'GI': b'\0;'}
    cut_off = ends.get(data[:2], b'') not in data[-4096:]
    if data[:4] == b'RIFF':  # WebP, which says how long it is
        cut_off = int.from_bytes(data[4:8], 'little') + 8 > len(data)
    if not data or cut_off:
        raise Unusable('the file is empty or cut off')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise Unusable('OpenCV cannot decode it: it is damaged or not an image')
    return image


def draw(image, found, metadata):
    """The picture with masks, boxes and names."""
    colors = metadata.get('palette')
    if not isinstance(colors, list):  # MMDetection's, where a data set has none
        colors = np.random.RandomState(42).randint(0, 256, (10000, 3)).tolist()
    image, font, white = image.copy(), cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
    for label, mask in zip(found['labels'], found.get('masks', ())):
        image[mask] = image[mask] * 0.2 + np.array(colors[label][::-1]) * 0.8
        mask = mask.astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, edges, -1, white, 1)
    for box, label, score in zip(found['boxes'], found['labels'], found['scores']):
        x1, y1, x2, y2 = (int(side) for side in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), colors[label][::-1], 2)
        text = f'{metadata["classes"][label]}: {score * 100:.1f}'
        (width, height), _ = cv2.getTextSize(text, font, 0.35, 1)
        cv2.rectangle(image, (x1, y1), (x1 + width + 4, y1 + height + 5), (0, 0, 0), -1)
        cv2.putText(image, text, (x1 + 2, y1 + height + 2), font, 0.35, white, 1)
    return image


def find_images(inputs):
    """The files that the arguments stand for, each once."""
    paths = []
    for name in inputs:
        if os.path.isdir(name):
            names = sorted(glob.glob(os.path.join(glob.escape(name), '*')))
            paths += [path for path in names if path.lower().endswith(SUFFIXES)]
        else:
            found = [] if os.path.lexists(name) else glob.glob(name, recursive=True)
            paths += sorted(found) or [name]
    return list(dict.fromkeys(paths))


def drawing_of(path, folder, taken):
    """Where to draw an image: under a name of its own, over no input."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() not in DRAWN_AS:
        stem, suffix = stem + suffix, '.jpg'
    drawing = number = None
    while drawing is None or os.path.realpath(drawing) in taken:
        drawing = os.path.join(folder, f'{stem}{number or ""}{suffix}')
        number = (number or -1) - 1  # a.jpg, a-2.jpg
    taken.add(os.path.realpath(drawing))
    return drawing


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('model', help='.onnx or .xml file of tools/export.py')
    parser.add_argument('images', nargs='+', help='files, folders or patterns')
    parser.add_argument('--out-dir', default='work_dirs/infer')
    parser.add_argument('--score-thr', type=float, default=0.3)
    parser.add_argument('--no-save-vis', action='store_true', help='draw no pictures')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    try:
        detector = Detector(args.model)
    except Unusable as error:
        sys.exit(f'run_onnx.py: {error}')
    classes = enumerate(detector.metadata['classes'], 1)
    content = dict(
        info=dict(description='Detections of mobilevig_det'),
        images=[],
        annotations=[],
        categories=[dict(id=id, name=name) for id, name in classes],
    )
    folder, skipped, image_id = os.path.join(args.out_dir, 'vis'), 0, 0
    os.makedirs(args.out_dir if args.no_save_vis else folder, exist_ok=True)
    paths = find_images(args.images)
    taken = {os.path.realpath(path) for path in paths}
    for path in paths:
        try:
            image = read_image(path)
            image_id += 1
            found = detector(image, args.score_thr)
        except Unusable as error:
            print(f'run_onnx.py: skipped {path}: {error}', file=sys.stderr)
            skipped += 1
            continue
        height, width = image.shape[:2]
        entry = dict(id=image_id, file_name=path, width=width, height=height)
        content['images'].append(entry)
        for i in range(len(found['scores'])):
            one = annotation(found, i, image_id)
            content['annotations'].append(
                dict(id=len(content['annotations']) + 1, **one)
            )
        if not args.no_save_vis:
            drawing = drawing_of(path, folder, taken)
            cv2.imwrite(drawing, draw(image, found, detector.metadata))
    out = os.path.join(args.out_dir, 'predictions.json')
    Path(f'{out}.part').write_text(json.dumps(content), encoding='utf-8')
    os.replace(f'{out}.part', out)
    print(
        f'{len(content["annotations"])} detections of at least {args.score_thr:g} in '
        f'{len(content["images"])} images.\nDetections: {out}'
    )
    if skipped:
        sys.exit(f'run_onnx.py: {skipped} skipped, see above.')


if __name__ == '__main__':
    main()
