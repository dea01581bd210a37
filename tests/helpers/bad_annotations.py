"""Annotation files with one fault each, and the expected messages."""

import json
from collections.abc import Callable
from typing import NamedTuple

import tiny_coco


class Case(NamedTuple):
    """A fault, and what the data check and MMDetection make of it.

    ``train`` and ``val`` say for each split whether the check reports that the fault
    stops the run or is tolerated, and what happens in MMDetection: it fails, works
    ("survives"), gives wrong results silently, or never ends.
    """

    change: Callable  # edits the content; for TEXTS it returns the text of the file
    train: str
    val: str
    kind: str
    record: str = ''


ANN = 'annotation 102 (image 20)'  # a polygon
RLE = 'annotation 101 (image 10)'


def ann(data, id):
    return next(a for a in data['annotations'] if a['id'] == id)


def change(which, **values):
    return lambda data: ann(data, which).update(values)


def change_rle(**values):
    return lambda data: ann(data, 101)['segmentation'].update(values)


def without(key, id=102):
    return lambda data: ann(data, id).pop(key)


def drop(key):
    return lambda data: data.pop(key)


def empty(*keys):
    return lambda data: [data[key].clear() for key in keys]


def again(key, **values):
    return lambda data: data[key].append({**data[key][0], **values})


# Not objects.
TEXTS = (
    'cut off',
    'empty file',
    'not JSON',
    'a list',
    'lists in lists',
    'number of 5000 digits',
)

CASES = {
    'cut off': Case(
        lambda data: json.dumps(data)[:-200],
        'stops, fails',
        'stops, fails',
        'is cut off',
    ),
    'empty file': Case(
        lambda data: '', 'stops, fails', 'stops, fails', 'is cut off, or empty'
    ),
    'not JSON': Case(
        lambda data: '<html>', 'stops, fails', 'stops, fails', 'is not JSON'
    ),
    'a list': Case(
        lambda data: '[]', 'stops, fails', 'stops, fails', 'not a COCO annotation file'
    ),
    'no categories': Case(
        drop('categories'), 'stops, fails', 'stops, fails', 'has no list "categories"'
    ),
    'no images': Case(
        drop('images'), 'stops, fails', 'stops, fails', 'has no list "images"'
    ),
    'no annotations': Case(
        drop('annotations'),
        'stops, fails',
        'stops, silent',
        'has no list "annotations"',
    ),
    'empty images': Case(
        empty('images'), 'stops, fails', 'stops, fails', 'has no images'
    ),
    'empty annotations': Case(
        empty('annotations'),
        'stops, fails',
        'tolerated, survives',
        'has no annotations',
    ),
    'empty categories': Case(
        empty('categories'),
        'stops, fails',
        'stops, fails',
        "none of the config's classes",
    ),
    'no box': Case(
        without('bbox'), 'stops, fails', 'stops, fails', 'has no "bbox"', ANN
    ),
    'no area': Case(
        without('area'), 'stops, fails', 'stops, fails', 'has no "area"', ANN
    ),
    'no category': Case(
        without('category_id'),
        'stops, fails',
        'stops, fails',
        'has no "category_id"',
        ANN,
    ),
    'no image id': Case(
        without('image_id'),
        'stops, fails',
        'stops, fails',
        'has no "image_id"',
        'annotation 102 (image unknown)',
    ),
    'no id': Case(
        without('id'), 'stops, fails', 'stops, fails', 'has no "id"', 'annotations[2]'
    ),
    'no width': Case(
        lambda data: data['images'][1].pop('width'),
        'stops, fails',
        'stops, fails',
        'has no "width"',
        'image 20',
    ),
    'no file name': Case(
        lambda data: data['images'][1].pop('file_name'),
        'stops, fails',
        'stops, fails',
        'has no "file_name"',
        'image 20',
    ),
    'no mask': Case(
        without('segmentation'),
        'stops, fails',
        'stops, fails',
        'has no "segmentation"',
        ANN,
    ),
    'empty mask': Case(
        change(102, segmentation=[]),
        'stops, fails',
        'stops, fails',
        'has no "segmentation"',
        ANN,
    ),
    'box of no width': Case(
        change(102, bbox=[20, 50, 0, 40]),
        'tolerated, survives',
        'tolerated, survives',
        'no area',
        ANN,
    ),
    'box of negative width': Case(
        change(102, bbox=[50, 50, -30, 40]),
        'tolerated, survives',
        'tolerated, survives',
        'no area',
        ANN,
    ),
    'object of no area': Case(
        change(102, area=0),
        'tolerated, survives',
        'tolerated, survives',
        'no area',
        ANN,
    ),
    'box of three numbers': Case(
        change(102, bbox=[1, 2, 3]),
        'stops, fails',
        'stops, fails',
        'not of finite numbers',
        ANN,
    ),
    'box of words': Case(
        change(102, bbox=['1', '2', '3', '4']),
        'stops, fails',
        'stops, fails',
        'not of finite numbers',
        ANN,
    ),
    'box of NaN': Case(
        change(102, bbox=[20, float('nan'), 30, 40]),
        'stops, silent',
        'stops, silent',
        'not of finite numbers',
        ANN,
    ),
    'box outside': Case(
        change(102, bbox=[200, 50, 30, 40]),
        'tolerated, survives',
        'tolerated, survives',
        'box outside the image',
        ANN,
    ),
    'box half outside': Case(
        change(102, bbox=[-20, 50, 60, 40]),
        'tolerated, survives',
        'tolerated, survives',
        'reaches outside',
        ANN,
    ),
    'two points': Case(
        change(102, segmentation=[[20, 50, 50, 90]]),
        'tolerated, survives',
        'stops, fails',
        'polygon of two points',
        ANN,
    ),
    'two points beside a polygon': Case(
        change(102, segmentation=[[20, 50, 50, 50, 50, 90], [20, 50, 50, 90]]),
        'tolerated, survives',
        'tolerated, survives',
        'polygon of two points',
        ANN,
    ),
    'one point': Case(
        change(102, segmentation=[[20, 50]]),
        'tolerated, survives',
        'stops, fails',
        'polygon of two points',
        ANN,
    ),
    'odd polygon': Case(
        change(102, segmentation=[[20, 50, 50, 50, 50, 90, 20]]),
        'tolerated, survives',
        'tolerated, survives',
        'odd number',
        ANN,
    ),
    'flat polygon': Case(
        change(102, segmentation=[20, 50, 50, 50, 50, 90]),
        'stops, fails',
        'stops, fails',
        'not a list of finite numbers',
        ANN,
    ),
    'polygon of words': Case(
        change(102, segmentation=[['a', 'b'] * 4]),
        'stops, fails',
        'stops, fails',
        'not a list of finite numbers',
        ANN,
    ),
    'polygon of NaN': Case(
        change(102, segmentation=[[20, 50, 50, float('nan'), 50, 90]]),
        'stops, endless',
        'stops, endless',
        'not a list of finite numbers',
        ANN,
    ),
    'polygon far away': Case(
        change(102, segmentation=[[20, 50, 1e12, 50, 50, 90]]),
        'stops, endless',
        'stops, endless',
        'not a list of finite numbers',
        ANN,
    ),
    'RLE of another size': Case(
        change(101, segmentation=tiny_coco.rle((1, 1, 9, 9), 60, 80)),
        'stops, fails',
        'stops, fails',
        'RLE mask of another size',
        RLE,
    ),
    'RLE of turned size': Case(
        change(101, segmentation=tiny_coco.rle((1, 1, 9, 9), 160, 120)),
        'stops, fails',
        'stops, fails',
        'RLE mask of another size',
        RLE,
    ),
    'RLE that says another size': Case(
        change_rle(size=[60, 80]),
        'stops, fails',
        'stops, fails',
        'RLE mask of another size',
        RLE,
    ),
    'RLE too short': Case(
        change_rle(counts=[10, 20]),
        'stops, silent',
        'stops, silent',
        'does not fill its size',
        RLE,
    ),
    'RLE of nonsense': Case(
        change_rle(counts='zzz'),
        'stops, silent',
        'stops, silent',
        'does not fill its size',
        RLE,
    ),
    'RLE too long': Case(
        change_rle(counts=[10, 20000]),
        'stops, fails',
        'stops, fails',
        'does not fill its size',
        RLE,
    ),
    'RLE of fractions': Case(
        change_rle(counts=[0.5] * 2 * 160 * 120),
        'stops, silent',
        'stops, silent',
        'does not fill its size',
        RLE,
    ),
    'RLE of texts': Case(
        change_rle(counts=['19200']),
        'stops, silent',
        'stops, silent',
        'does not fill its size',
        RLE,
    ),
    'RLE of a huge number': Case(
        change_rle(counts=[2**70]),
        'stops, fails',
        'stops, fails',
        'does not fill its size',
        RLE,
    ),
    'a long outline': Case(
        change(102, segmentation=[[0, 0, 9e5, 0, 0, 9, 9e5, 9] * 4]),
        'stops, slow',
        'stops, slow',
        'outline of over 1e+07 pixels',
        ANN,
    ),
    'crowd as text': Case(
        change(102, iscrowd='0'),  # true to MMDetection, 0 to pycocotools
        'stops, silent',
        'stops, silent',
        '"iscrowd" is not 0 or 1',
        ANN,
    ),
    'ignore as text': Case(
        change(102, ignore='false'),
        'stops, silent',
        'stops, silent',
        '"ignore" is not 0 or 1',
        ANN,
    ),
    'image id as text': Case(
        change(102, image_id='20'),
        'stops, silent',
        'stops, silent',
        'ids of mixed types',
        ANN,
    ),
    'category id as text': Case(
        change(102, category_id='90'),
        'stops, silent',
        'stops, silent',
        'ids of mixed types',
        ANN,
    ),
    'annotation id as text': Case(
        change(102, id='102'),
        'stops, silent',
        'stops, silent',
        'ids of mixed types',
        ANN,
    ),
    'one image id as text': Case(
        lambda data: data['images'][3].update(id='40'),
        'stops, silent',
        'stops, silent',
        'ids of mixed types',
        'image 40',
    ),
    'image id of 65 bits': Case(
        lambda data: data['images'][3].update(id=2**64),
        'stops, silent',
        'stops, silent',
        '"id" is of the wrong type, or out of range',
        f'image {2**64}',
    ),
    'width of 400 digits': Case(
        lambda data: data['images'][1].update(width=10**400),
        'stops, silent',
        'stops, silent',
        '"width" is of the wrong type, or out of range',
        'image 20',
    ),
    'box of 400 digits': Case(
        change(102, bbox=[1, 2, 10**400, 3]),
        'stops, silent',
        'stops, silent',
        'not of finite numbers',
        ANN,
    ),
    'box of three numbers, of another class': Case(
        change(102, bbox=[1, 2, 3], category_id=8),
        'stops, fails',
        'stops, fails',
        'not of finite numbers',
        ANN,
    ),
    'lists in lists': Case(
        lambda data: '[' * 10**5 + ']' * 10**5,
        'stops, fails',
        'stops, fails',
        'cannot be read',
    ),
    'number of 5000 digits': Case(
        lambda data: json.dumps(data).replace('"id": 102', '"id": ' + '9' * 5000),
        'stops, fails',
        'stops, fails',
        'cannot be read',
    ),
    'every object a crowd': Case(
        lambda data: [a.update(iscrowd=1) for a in data['annotations']],
        'stops, silent',
        'tolerated, survives',
        'nothing',
    ),
    'duplicate annotation id': Case(
        change(102, id=101),
        'stops, fails',
        'stops, fails',
        'duplicate annotation id',
        'annotation 101 (image 20)',
    ),
    'duplicate image id': Case(
        again('images', file_name='2.jpg'),
        'stops, silent',
        'stops, silent',
        'duplicate image id',
        'image 10',
    ),
    'duplicate category id': Case(
        again('categories', name='square'),
        'stops, silent',
        'stops, silent',
        'duplicate category id',
        'categories[3]',
    ),
    'duplicate category name': Case(
        again('categories', id=91),
        'stops, silent',
        'stops, silent',
        'duplicate category name',
        'categories[3]',
    ),
    'one file twice': Case(
        again('images', id=50),
        'tolerated, survives',
        'tolerated, survives',
        'listed twice',
        'image 50',
    ),
    'category not in the file': Case(
        change(102, category_id=8),
        'tolerated, survives',
        'tolerated, survives',
        'of a category that is not in the file',
        ANN,
    ),
    'image not in the file': Case(
        change(102, image_id=99),
        'tolerated, survives',
        'tolerated, survives',
        'of an image that is not in the file',
        'annotation 102 (image 99)',
    ),
    'narrow image': Case(
        lambda data: data['images'][3].update(width=1),
        'tolerated, survives',
        'stops, silent',
        'another size than stated',
        'image 40',
    ),
}
