#!/usr/bin/env python
"""Detect objects in images with an exported detector (.onnx or .xml).

This file needs only NumPy, OpenCV and onnxruntime (or openvino), so that it can be
copied into other projects. Call `Detector` there; the rest is the command.
"""

import argparse
import functools
import json
import math
import os
import reprlib
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

KEY = 'mobilevig_det'  # key of the metadata in exported files
SUFFIXES = tuple('.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif'.split())


class Unusable(ValueError):
    """Error for a model or an image that can't be used; the message says why."""


@functools.cache
def _openvino_core():
    """Return one core for all models; several break the stack of signal handlers."""
    with mock.patch.dict(os.environ, CI='true'):  # disables OpenVINO's telemetry
        import openvino
    return openvino.Core()


def _open(path):
    """Return a function from named arrays to named arrays, and the metadata's text."""
    if Path(path).suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        names = [output.name for output in session.get_outputs()]
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        return lambda arrays: dict(zip(names, session.run(names, arrays))), text
    model = _openvino_core().read_model(path)
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    # bfloat16, the default on some CPUs, is too inaccurate for boxes.
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    run = _openvino_core().compile_model(model, 'CPU', options)
    return lambda arrays: {key.any_name: v for key, v in run(arrays).items()}, text


def load(path):
    """Load a model and return its function (see _open) and its metadata."""
    if Path(path).suffix not in ('.onnx', '.xml') or not Path(path).is_file():
        raise Unusable(f'There is no model (.onnx, .xml) {path!r}.')
    try:
        run, text = _open(path)
    except ImportError as error:
        raise Unusable(f'{error}: pip install {error.name}') from None
    except Exception as error:  # each runtime raises its own types
        raise Unusable(f'{path} cannot be loaded: {str(error).strip()}') from None
    return run, parse_metadata(text, path)


def parse_metadata(text, path):
    """Parse and validate the metadata of a detector's file, which is untrusted."""
    wanted = 'a detector that tools/export.py wrote (--part detector, format 1)'
    try:
        metadata = json.loads(text or '{}') if len(text or '') <= 2**20 else None
    except (ValueError, RecursionError):
        metadata = None
    if type(metadata) is not dict:
        raise Unusable(f'{path} is not {wanted}. Its metadata is no JSON object.')
    part, version = metadata.get('part'), metadata.get('format')
    if part != 'detector' or type(version) is not int or version != 1:
        part, version = (reprlib.repr(x).strip("'") for x in (part, version))
        has = f'a {part} of format {version}' if metadata else 'none'
        raise Unusable(f'{path} is not {wanted}. Its metadata says: {has}.')
    for key, fits in check_metadata(metadata):
        if not fits:
            found = reprlib.repr(metadata[key]) if key in metadata else 'missing'
            raise Unusable(f'The metadata of {path} cannot be used: {key} is {found}')
    return metadata


def _numbers(x, count, low=-1e6, high=1e6, types=(int, float)):
    x = x if type(x) is list else [x] if count == 1 else []
    return len(x) == count and all(type(y) in types and low <= y <= high for y in x)


def _sides(x, count=2):
    return _numbers(x, count, 1, 8192, (int,))


def _optional(x, *tests):
    return x is None or type(x) is dict and all(test(x.get) for test in tests)


def check_metadata(metadata):
    """Yield the keys that prepare(), Detector and draw() read, and whether they fit."""
    get, missing = metadata.get, object()
    names, colors = get('classes'), get('palette')
    yield (
        'classes',
        type(names) is list
        and all(
            type(n) is str and n.encode(errors='ignore').decode() == n for n in names
        ),
    )
    yield (
        'palette',
        colors is None
        or (
            type(colors) is list
            and len(colors) >= len(names)
            and all(_numbers(color, 3, 0, 255) for color in colors)
        ),
    )
    yield 'mean', _numbers(get('mean'), 3)
    yield 'std', _numbers(get('std'), 3, 1e-6)
    yield 'bgr_to_rgb', type(get('bgr_to_rgb')) is bool
    yield 'pad_size_divisor', _sides([get('pad_size_divisor')], 1)
    yield 'pad_value', _numbers([get('pad_value')], 1)
    yield (
        'resize',
        _optional(
            get('resize'),
            lambda resize: _sides(resize('scale')),
            lambda resize: type(resize('keep_ratio')) is bool,
        ),
    )
    yield (
        'pad',
        _optional(
            get('pad'),
            lambda pad: _sides(pad('size')),
            lambda pad: _numbers(pad('value'), 3),
        ),
    )
    masks = get('masks', missing)
    yield (
        'masks',
        _optional(
            masks,
            lambda masks: masks('kind') in ('box', 'image'),
            lambda masks: _numbers([masks('threshold')], 1, 0, 1),
            lambda masks: (
                masks('kind') == 'box'
                or _numbers([masks('threshold')], 1, 1e-6, 1 - 1e-6)
                and _numbers([masks('stride')], 1, 1, 256, (int,))
                and type(masks('swapped', True)) in (bool, type(None))
            ),
        ),
    )


class Detector:
    """An exported detector, used as ``Detector(path)(image)``."""

    def __init__(self, path):
        self.run, self.metadata = load(path)

    def __call__(self, image, score_thr=0.0):
        """Detect objects in a uint8 BGR image (H, W, 3), as cv2.imread returns it.

        Returns a dict in descending order of scores, which are at least score_thr:
        ``boxes`` (N, 4), x1 y1 x2 y2 in pixels; ``labels`` (N,), indices into
        metadata['classes']; ``scores`` (N,); and, if the model has masks, ``masks``,
        N bool arrays (H, W).
        """
        tensor, size, scale = prepare(image, self.metadata)
        try:
            found = self.run({'image': tensor, 'size': np.array(size, np.int64)})
        except Exception as error:  # each runtime raises its own types
            raise Unusable(f'the model fails: {str(error).strip()}') from None
        if not are_detections(found, self.metadata):
            raise Unusable('the outputs of the model are not valid detections')
        found = {k: v[found['scores'] >= score_thr] for k, v in found.items()}
        found['boxes'] = found['boxes'] / np.array(scale * 2, np.float32)
        if masks := self.metadata['masks']:
            shape, threshold = image.shape[:2], masks['threshold']
            factors = scale if masks.get('swapped', True) else scale[::-1]
            found['masks'] = [
                paste_in_box(mask, box, shape, threshold)
                if masks['kind'] == 'box'
                else paste_image(mask, shape, factors, masks['stride'], threshold)
                for mask, box in zip(found['masks'], found['boxes'])
            ]
        return found


def are_detections(found, metadata):
    """Return whether the shapes and values of a model's outputs are valid."""
    names = ('boxes', 'scores', 'labels', *(('masks',) if metadata['masks'] else ()))
    if not all(isinstance(found.get(name), np.ndarray) for name in names):
        return False
    boxes, scores, labels, *masks = (found[name] for name in names)
    number = labels.size
    return (
        labels.shape == scores.shape == (number,)
        and boxes.shape == (number, 4)
        and all(x.ndim == 3 and len(x) == number for x in masks)
        and all(x.dtype.kind == 'f' for x in (boxes, scores, *masks))
        and labels.dtype.kind == 'i'
        and np.isin(labels, range(len(metadata['classes']))).all()
        and np.isfinite(scores).all()
        and (np.abs(boxes) < 1e6).all()  # false for NaN
    )


def prepare(image, metadata):
    """Prepare an image as MMDetection's Resize, Pad and DetDataPreprocessor do.

    Returns:
        tuple: float32 array (1, 3, H, W); (height, width) before the last padding; the
        (x, y) scale factors.
    """
    height, width = image.shape[:2]
    if resize := metadata.get('resize'):
        new = tuple(resize['scale'])
        if resize['keep_ratio']:
            long, short = max(new), min(new)
            factor = min(long / max(height, width), short / min(height, width))
            new = int(width * factor + 0.5), int(height * factor + 0.5)
        if min(new) < 1:
            raise Unusable(f'{width} x {height} pixels cannot become {new}')
        image = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
    scale = image.shape[1] / width, image.shape[0] / height
    if pad := metadata.get('pad'):
        image = _pad(image, pad['size'], pad['value'])
    size = image.shape[:2]
    if metadata['bgr_to_rgb']:
        image = image[..., ::-1]
    mean, std = np.float32(metadata['mean']), np.float32(metadata['std'])
    image = (np.float32(image) - mean) / std
    divisor = metadata['pad_size_divisor']
    sides = [-(-side // divisor) * divisor for side in size]
    image = _pad(image, sides, metadata['pad_value'])
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None]), size, scale


def _pad(image, size, value):
    height, width = image.shape[:2]
    padded = np.full((*np.maximum(size, (height, width)), 3), value, image.dtype)
    padded[:height, :width] = image
    return padded


def paste_in_box(mask, box, shape, threshold):
    """Paste a box's mask (28, 28) into an image, as FCNMaskHead does.

    This is grid_sample: bilinear, zeros outside, align_corners=False.
    """
    touched, weights = [], []  # rows and columns of the image; weights of the mask
    for low, high, side, size in zip(box[[1, 0]], box[[3, 2]], shape, mask.shape):
        pixels = slice(max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, side))
        at = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
        with np.errstate(divide='ignore', invalid='ignore'):
            at = (at - low) / (high - low) * 2 - 1
        at[np.isinf(at)] = 0  # a box without area, treated as in MMDetection
        at = ((at + 1) * size - 1) / 2
        touched.append(pixels)
        weights.append(np.fmax(1 - np.abs(at[:, None] - np.arange(size)), 0))
    pasted = np.zeros(shape, bool)
    pasted[tuple(touched)] = weights[0] @ mask @ weights[1].T >= threshold
    return pasted


def paste_image(mask, shape, factors, stride, threshold):
    """Resize a mask of the padded image, given at a stride, as RTMDet-Ins does.

    Its logits are resized twice. The factors are those of height and width.
    """
    mask = np.clip(mask.astype(np.float64), 1e-30, 1 - 3e-8)
    logits = (np.log(mask) - np.log1p(-mask)).astype(np.float32)
    sides = [side * stride for side in mask.shape]
    logits = cv2.resize(logits, sides[::-1], interpolation=cv2.INTER_LINEAR)
    sides = [math.ceil(side * (1 / factor)) for side, factor in zip(sides, factors)]
    logits = cv2.resize(logits, sides[::-1], interpolation=cv2.INTER_LINEAR)
    pasted = logits[: shape[0], : shape[1]] > math.log(threshold / (1 - threshold))
    pasted = cv2.resize(pasted.astype(np.uint8), shape[::-1], interpolation=0)
    return pasted.astype(bool)  # in the image's shape, even if the factors were swapped


def annotations(found):
    """Yield the detections as COCO annotations without ids."""
    for i, (x1, y1, x2, y2) in enumerate(found['boxes'].tolist()):
        category, score = int(found['labels'][i]) + 1, float(found['scores'][i])
        one = dict(category_id=category, score=score, iscrowd=0)
        one.update(area=(x2 - x1) * (y2 - y1), bbox=[x1, y1, x2 - x1, y2 - y1])
        if 'masks' in found:
            mask = found['masks'][i]
            one.update(area=float(mask.sum()), segmentation=encode(mask))
        yield one


def encode(mask):
    """Encode a mask (H, W) as COCO's compressed run lengths, column by column."""
    flat = np.concatenate([[0], mask.T.ravel(), [2]]).astype(np.int8)
    runs = np.diff([0, *np.flatnonzero(np.diff(flat))]).tolist()
    text = ''
    for i, run in enumerate(runs):
        # From the fourth run on, the difference from the one before last is stored, in
        # characters of five bits.
        value = run - runs[i - 2] if i > 2 else run
        while not -16 <= value < 16:
            text += chr(80 + (value & 31))  # bit 5: another character follows
            value >>= 5
        text += chr(48 + (value & 31))
    return dict(size=list(mask.shape), counts=text)


def read_image(path):
    """Read a uint8 BGR image (H, W, 3), upright, as cv2.imread does."""
    try:
        data = Path(path).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise Unusable(f'cannot be read: {error.strerror}') from None
    except cv2.error:
        image = None
    # Some versions of OpenCV fill the missing part of a file with gray.
    ends = {b'\xff\xd8': b'\xff\xd9', b'\x89P': b'IEND\xaeB`\x82', b'GI': b'\0;'}
    cut_off = ends.get(data[:2], b'') not in data[-4096:]
    if data[:4] == b'RIFF':  # WebP, which stores its length
        cut_off = int.from_bytes(data[4:8], 'little') + 8 > len(data)
    if image is None or cut_off:
        raise Unusable('OpenCV cannot decode it: cut off, damaged or not an image')
    return image


def draw(image, found, metadata):
    """Draw masks, boxes and class names on a copy of an image."""
    colors = metadata.get('palette')
    if not colors:  # MMDetection's default
        colors = np.random.RandomState(42).randint(0, 256, (10000, 3)).tolist()
    colors = [color[::-1] for color in colors]
    image, font, white = image.copy(), cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
    for label, mask in zip(found['labels'], found.get('masks', ())):
        image[mask] = image[mask] * 0.2 + np.array(colors[label]) * 0.8
        mask = mask.astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, edges, -1, white, 1)
    for box, label, score in zip(found['boxes'], found['labels'], found['scores']):
        x1, y1, x2, y2 = (int(side) for side in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), colors[label], 2)
        text = f'{metadata["classes"][label]}: {score * 100:.1f}'
        (width, height), _ = cv2.getTextSize(text, font, 0.35, 1)
        cv2.rectangle(image, (x1, y1), (x1 + width + 4, y1 + height + 5), (0, 0, 0), -1)
        cv2.putText(image, text, (x1 + 2, y1 + height + 2), font, 0.35, white, 1)
    return image


def name_drawing(path, folder, taken):
    """Choose a unique path for a drawing that overwrites no input."""
    drawing = os.path.join(folder, os.path.basename(path))
    if not drawing.lower().endswith(('.jpg', '.jpeg', '.png', '.bmp')):
        drawing += '.jpg'
    while os.path.realpath(drawing) in taken:
        drawing = '-2'.join(os.path.splitext(drawing))
    taken.add(os.path.realpath(drawing))
    return drawing


def parse_args(argv=None):
    """Parse the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('model', help='Exported detector (.onnx or .xml).')
    parser.add_argument('images', nargs='+', help='Image files or folders.')
    add = parser.add_argument
    add('--out-dir', default='work_dirs/infer', help='Write results to this folder.')
    add(
        '--score-thr', type=float, default=0.3, help='Omit detections below this score.'
    )
    add('--no-save-vis', action='store_true', help='Save no drawings.')
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command."""
    args = parse_args(argv)
    try:
        detector = Detector(args.model)
    except Unusable as error:
        sys.exit(f'run_onnx.py: {error}')
    folder, out = (os.path.join(args.out_dir, n) for n in ('vis', 'predictions.json'))
    os.makedirs(args.out_dir if args.no_save_vis else folder, exist_ok=True)
    paths = {}  # without duplicates, in order
    for name in args.images:
        files = sorted(os.listdir(name)) if os.path.isdir(name) else ()
        files = [os.path.join(name, f) for f in files if f.lower().endswith(SUFFIXES)]
        paths.update(dict.fromkeys(files if os.path.isdir(name) else [name]))
    taken = {os.path.realpath(path) for path in paths}
    images, detections, image_id = [], [], 0
    for path in paths:
        try:
            image = read_image(path)
            image_id += 1
            found = detector(image, args.score_thr)
        except Unusable as error:
            print(f'run_onnx.py: skipped {path}: {error}', file=sys.stderr)
            continue
        height, width = image.shape[:2]
        images.append(dict(id=image_id, file_name=path, width=width, height=height))
        for one in annotations(found):
            detections.append(dict(id=len(detections) + 1, image_id=image_id, **one))
        if not args.no_save_vis:
            picture = draw(image, found, detector.metadata)
            cv2.imwrite(name_drawing(path, folder, taken), picture)
    classes = enumerate(detector.metadata['classes'], 1)
    content = dict(
        info=dict(description='Detections of mobilevig_det'),
        images=images,
        annotations=detections,
        categories=[dict(id=id, name=name) for id, name in classes],
    )
    Path(f'{out}.part').write_text(json.dumps(content), encoding='utf-8')
    os.replace(f'{out}.part', out)
    found = f'{len(detections)} detections of at least {args.score_thr:g}'
    print(f'{found} in {len(images)} images.\nDetections: {out}')
    if skipped := len(paths) - len(images):
        sys.exit(f'run_onnx.py: {skipped} skipped, see above.')


if __name__ == '__main__':
    main()
