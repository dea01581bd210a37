"""tools/infer.py against MMDetection's own functions and pycocotools."""

import json
import re

from mobilevig_det.datasets.image_file import read_image

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_detector
import tool
import torch
from bad_images import bad_files, encode, good_files, photo, picture
from mmdet.apis import DetInferencer, inference_detector, init_detector
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@pytest.fixture(scope='module')
def reference(model_dir):
    """image file -> boxes, labels, scores, masks; by MMDetection alone."""
    model = init_detector(
        str(model_dir / 'config.py'), str(model_dir / 'epoch_1.pth'), device='cpu'
    )

    def predict(image):
        found = inference_detector(model, image).pred_instances
        return found[found.scores >= 0.4].cpu()

    return predict


def save(path, image):
    cv2.imwrite(str(path), image)
    return path


def of_image(content, name):
    image = next(i for i in content['images'] if i['file_name'] == str(name))
    return image, [a for a in content['annotations'] if a['image_id'] == image['id']]


def assert_same(annotations, expected):
    """COCO annotations against MMDetection's instances."""
    assert len(annotations) == len(expected) > 0
    xywh = np.array([a['bbox'] for a in annotations])
    xyxy = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    assert np.allclose(xyxy, expected.bboxes, atol=1e-2)
    assert np.allclose([a['score'] for a in annotations], expected.scores, atol=1e-4)
    labels = [a['category_id'] - 1 for a in annotations]
    assert labels == expected.labels.tolist()
    for found, mask in zip(annotations, expected.masks.numpy()):
        decoded = mask_utils.decode(found['segmentation'])
        assert decoded.shape == mask.shape
        assert (decoded != mask).mean() < 1e-3


def test_detections_are_mmdetections_own(infer, reference, tmp_path):
    paths = [
        save(tmp_path / f'{i}.png', photo(*size, i))
        for i, size in enumerate([(160, 120), (120, 160), (93, 201)])
    ]
    code, content = infer(*paths)
    assert code == 0
    for path in paths:
        image, found = of_image(content, path)
        array = read_image(str(path))
        assert (image['height'], image['width']) == array.shape[:2]
        assert_same(found, reference(array))


@pytest.mark.parametrize('batch_size', [['--batch-size', 3], []])
def test_a_batch_finds_what_single_images_do(infer, model_dir, tmp_path, batch_size):
    """Sizes are mixed so that padding the batch to its largest image would
    change the graph of every other one, which it really would."""
    sizes = [(160, 120), (120, 160), (157, 120), (60, 200), (160, 117)]
    paths = [
        save(tmp_path / f'{i}.png', photo(*size, i)) for i, size in enumerate(sizes)
    ]
    _, single = infer(*paths, '--batch-size', 1, out='1')
    _, batched = infer(*paths, *batch_size, out='3')
    assert single['images'] == batched['images']
    assert len(single['annotations']) == len(batched['annotations']) > 20
    for a, b in zip(single['annotations'], batched['annotations']):
        assert (a['image_id'], a['category_id']) == (b['image_id'], b['category_id'])
        assert a['score'] == pytest.approx(b['score'], abs=1e-4)
        assert a['bbox'] == pytest.approx(b['bbox'], abs=1e-2)
        masks = [mask_utils.decode(x['segmentation']) for x in (a, b)]
        assert (masks[0] != masks[1]).mean() < 1e-3

    # MMDetection's own inferencer pads them to one size.
    plain = DetInferencer(
        str(model_dir / 'config.py'),
        str(model_dir / 'epoch_1.pth'),
        device='cpu',
        show_progress=False,
    )
    mixed = plain([str(path) for path in paths], batch_size=5)['predictions'][0]
    alone = [a['score'] for a in of_image(single, paths[0])[1]]
    assert not np.allclose(mixed['scores'][: len(alone)], alone, atol=1e-3)


def test_file_loads_in_pycocotools(infer, tmp_path):
    path = save(tmp_path / 'a.png', photo(160, 120))
    infer(path)
    out = str(tmp_path / 'out' / 'predictions.json')
    coco = COCO(out)
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(
        tiny_detector.CLASSES
    )
    ids = coco.getAnnIds()
    assert ids == list(range(1, len(ids) + 1)) and ids
    for ann in coco.loadAnns(ids):
        mask = coco.annToMask(ann)
        assert mask.shape == (120, 160) and mask.sum() == ann['area']
    # As predictions of itself it is perfect.
    detections = coco.loadRes(json.loads(open(out).read())['annotations'])
    for kind in 'bbox', 'segm':
        evaluation = COCOeval(coco, detections, kind)
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval['precision'][..., 0, -1]
        assert (precision[precision > -1] > 0.999).all()


def test_ids_are_those_of_the_test_set(infer, model_dir, tmp_path):
    """With the model's data at hand: its category ids (with gaps) and, for
    its own images, its image ids."""
    images = tmp_path / 'data' / 'images'
    images.mkdir(parents=True)
    inside = save(images / 'x.png', photo(160, 120))
    outside = save(tmp_path / 'x.png', photo(160, 120, 1))
    annotations = tmp_path / 'data' / 'test.json'
    annotations.write_text(
        json.dumps(
            dict(
                images=[dict(id=70, file_name='x.png')],
                annotations=[],
                categories=[
                    dict(id=id, name=name)
                    for id, name in zip((90, 3, 7), ('triangle', 'circle', 'square'))
                ],
            )
        )
    )
    root = 'test_dataloader.dataset'
    code, content = infer(
        outside,
        inside,
        '--cfg-options',
        f'{root}.data_root={tmp_path}/data',
        f'{root}.ann_file=test.json',
        f'{root}.data_prefix.img=images/',
    )
    assert code == 0
    assert [image['id'] for image in content['images']] == [71, 70]
    assert {c['name']: c['id'] for c in content['categories']} == dict(
        circle=3, square=7, triangle=90
    )
    assert {a['category_id'] for a in content['annotations']} <= {3, 7, 90}


def test_every_kind_of_image(infer, tmp_path, capsys):
    """Bad ones are skipped, each on a line; the others are all done."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, data in good_files().items():
        (folder / name).write_bytes(data)
    for name, (data, _) in bad_files().items():
        (folder / name).write_bytes(data)
    save(folder / 'narrow.png', photo(1, 90))
    save(folder / 'line.png', photo(20000, 1))
    (folder / 'notes.txt').write_text('not looked at')
    missing = tmp_path / 'missing.jpg'
    code, content = infer(
        folder, folder / 'no-suffix', missing, tmp_path / '*.nothing', '--batch-size', 4
    )
    error = capsys.readouterr().err.replace('\r', '\n')  # of the bar
    lines = re.findall(r'^infer.py: skipped (\S+): (.*)$', error, re.M)
    reasons = {name.rpartition('/')[2]: reason for name, reason in lines}
    assert set(reasons) == {
        *bad_files(),
        'line.png',
        'missing.jpg',
        '*.nothing',
    } and len(lines) == len(reasons)
    for name, (_, reason) in bad_files().items():
        assert reason in reasons[name]
    assert '20000 x 1 pixels' in reasons['line.png']
    assert reasons['missing.jpg'] == 'there is no such file'
    assert code == f'infer.py: {len(lines)} skipped, see above.'
    done = {image['file_name'] for image in content['images']}
    assert done == {str(folder / name) for name in (*good_files(), 'narrow.png')}
    # The same picture in another coat: the same detections.
    _, plain = of_image(content, folder / 'plain.png')
    for name in 'rgba.png', 'animated.png', '16-bit.png':
        image, found = of_image(content, folder / name)
        assert (image['width'], image['height']) == (160, 120)
        if name != '16-bit.png':  # which is gray
            assert [a['score'] for a in found] == pytest.approx(
                [a['score'] for a in plain], abs=1e-4
            )


def test_twenty_thousand_pixels_wide(infer, model_dir, tmp_path, monkeypatch):
    path = save(tmp_path / 'wide.png', photo(20000, 120))
    # Masks that fill their boxes: what differs is then the geometry.
    checkpoint = torch.load(model_dir / 'epoch_1.pth', weights_only=True)
    weights = checkpoint['state_dict']
    weights['roi_head.mask_head.conv_logits.weight'] *= 0
    weights['roi_head.mask_head.conv_logits.bias'] += 5
    torch.save(checkpoint, tmp_path / 'full.pth')
    options = [
        '--config',
        model_dir / 'config.py',
        '--checkpoint',
        tmp_path / 'full.pth',
        '--cfg-options',
        'test_dataloader.dataset.pipeline.1.scale=(10000,120)',
    ]
    code, content = infer(path, *options)
    assert code == 0 and content['images'][0]['width'] == 20000
    boxes = np.array([a['bbox'] for a in content['annotations']])
    assert len(boxes) and (boxes[:, 0] + boxes[:, 2]).max() > 10000

    # The way of very large pictures: the same but for the edges of masks.
    for module in 'predictors', 'results':
        name = f'mobilevig_det.inference.{module}.MAX_PIXELS'
        monkeypatch.setattr(name, 100 * 100)
    code, large = infer(path, *options, draw=True, out='large')
    assert code == 0
    drawn = cv2.imread(str(tmp_path / 'large' / 'vis' / 'wide.png'))
    assert drawn.shape == (7, 1290, 3)
    assert len(large['annotations']) == len(boxes)
    for a, b in zip(content['annotations'], large['annotations']):
        assert a['bbox'] == pytest.approx(b['bbox'], abs=1e-1)
        assert b['segmentation']['size'] == [120, 20000]
        if min(a['bbox'][2:]) > 20:
            iou = mask_utils.iou([a['segmentation']], [b['segmentation']], [0])
            assert iou > 0.85


def test_pictures(infer, reference, tmp_path, capsys):
    """One for each image, as large; colours where objects were found."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    one.mkdir(), two.mkdir()
    save(one / 'a.png', photo(160, 120))
    save(two / 'a.png', photo(120, 160))
    save(two / 'b.tif', photo(90, 90))
    code, content = infer(one, two / '*', '--score-thr', 0.7, draw=True)
    assert code == 0
    vis = tmp_path / 'out' / 'vis'
    assert sorted(path.name for path in vis.iterdir()) == [
        'a.png',
        'a_2.png',
        'b.tif.jpg',
    ]
    drawn = cv2.imread(str(vis / 'a.png'))
    original = read_image(str(one / 'a.png'))
    assert drawn.shape == original.shape
    changed = (drawn != original).any(-1)
    _, found = of_image(content, one / 'a.png')
    union = mask_utils.decode(
        mask_utils.merge([a['segmentation'] for a in found])
    ).astype(bool)
    assert changed[union].mean() > 0.9
    # The table at the end counts what is in the file.
    text = capsys.readouterr().out
    for category in content['categories']:
        number = sum(a['category_id'] == category['id'] for a in content['annotations'])
        row = re.search(rf'\| {category["name"]} +\| (\d+)', text)
        assert int(row[1]) if row else 0 == number


def test_nothing_to_look_at(infer, tmp_path, capsys):
    empty = tmp_path / 'empty'
    empty.mkdir()
    code, content = infer(empty)
    assert code == 'infer.py: the inputs contain no images or videos.'
    assert content is None
    assert f'skipped {empty}: no images or videos' in capsys.readouterr().err


def test_the_demos_own_model(model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / 'a.png', photo(160, 120))
    infer = tool.load('infer')
    monkeypatch.setattr('mobilevig_det.inference.models.clone_root', lambda: None)
    with pytest.raises(SystemExit, match='make demo'):
        infer.main([str(path)])
    demo = tmp_path / 'work_dirs' / 'demo'
    demo.mkdir(parents=True)
    for name in 'config.py', 'epoch_1.pth':
        (demo / name).write_bytes((model_dir / name).read_bytes())
    infer.main([str(path), '--no-save-vis'])
    assert 'Model: work_dirs/demo/epoch_1.pth' in capsys.readouterr().out
    (demo / 'epoch_1.pth').rename(demo / 'best_coco_segm_mAP_epoch_1.pth')
    (demo / 'other.py').write_text('')
    with pytest.raises(SystemExit, match='2 configs.*--config'):
        infer.main([str(path)])
    with pytest.raises(SystemExit, match='--config needs the --checkpoint'):
        infer.main([str(path), '--config', 'x.py'])


def test_a_checkpoint_that_does_not_fit(infer, model_dir, tmp_path):
    path = save(tmp_path / 'a.png', photo(160, 120))
    message, _ = infer(path, '--cfg-options', 'model.roi_head.bbox_head.num_classes=5')
    assert 'The checkpoint does not fit the config' in message
    assert 'fc_cls' in message


def test_an_input_is_never_overwritten(infer, tmp_path):
    vis = tmp_path / 'out' / 'vis'
    vis.mkdir(parents=True)
    path = save(vis / 'a.png', photo(160, 120))
    before = path.read_bytes()
    message, _ = infer(path, draw=True)
    assert 'would overwrite the input' in message
    assert path.read_bytes() == before


def test_classes_from_the_config(infer, model_dir, tmp_path):
    """For a checkpoint that has none: bare weights."""
    checkpoint = torch.load(model_dir / 'epoch_1.pth', weights_only=True)
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=checkpoint['state_dict']), bare)
    path = save(tmp_path / 'a.jpg', photo(160, 120))
    path.write_bytes(encode(picture()))
    code = tool.run(
        'infer',
        path,
        '--config',
        model_dir / 'config.py',
        '--checkpoint',
        bare,
        '--out-dir',
        tmp_path,
        '--device',
        'cpu',
        '--no-save-vis',
    )
    assert code == 0
    content = json.loads((tmp_path / 'predictions.json').read_text())
    assert [c['name'] for c in content['categories']] == list(tiny_detector.CLASSES)
