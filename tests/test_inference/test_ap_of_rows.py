"""COCO's AP from Parquet, as the page computes it, against tools/test.py's."""

import json
from contextlib import contextmanager

from mobilevig_det.datasets.shapes import make_shapes

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_detector
import tool
import torch
from markdown_pages import code_block
from mmengine.config import Config
from pycocotools.cocoeval import COCOeval
from ray_in_process import run_workers_here

pytest.importorskip('pyarrow', reason='pip install pyarrow')

IDS = dict(zip(tiny_detector.CLASSES, (11, 3, 7)))


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Compare under equal rounding: sums depend on the number of threads.

    Ray's actors have one thread each. With random weights many scores nearly tie, so
    that rounding alone decides what non-maximum suppression keeps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    """A tiny detector, and a truth that it finds a part of, with ids of its own."""
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    make_shapes(folder / 'shapes', num_train=1, num_val=6, size=320)
    cfg = Config.fromfile(folder / 'config.py')
    truth = str(truth_of(folder))
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.update(
        data_root='', ann_file=truth, data_prefix=dict(img=f'{folder}/shapes/val/')
    )
    cfg.test_evaluator.update(ann_file=truth, proposal_nums=(1, 10, 100))
    cfg.model.test_cfg.rcnn.max_per_img = 20
    cfg.dump(folder / 'config.py')

    out = folder / 'first'
    assert infer('infer', folder, out, '--no-save-vis') == 0
    rows = [json.loads(line) for line in (out / 'rows' / '0.jsonl').open()]
    with open(truth, 'w') as file:
        json.dump(make_truth(rows), file)
    return folder


def truth_of(folder):
    return folder / 'truth.json'


def make_truth(rows):
    """Of what was found, the better half mostly, cut off, some as another class."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number, row in enumerate(rows):
        image = dict(
            id=1000 - 7 * number,
            file_name=row['image'].rpartition('/')[2],
            height=row['height'],
            width=row['width'],
        )
        images.append(image)
        half = np.median(row['scores'])
        found = zip(row['labels'], row['scores'], row['boxes'], row['masks'])
        for label, score, (x, y, width, height), mask in found:
            if number == 2 or random.random() < (0.2 if score > half else 0.8):
                continue
            height *= random.uniform(0.5, 1)
            pixels = mask_utils.decode(mask)
            pixels[int(y + height) :] = 0
            cut = mask_utils.encode(pixels)
            label = label - 1 if random.random() < 0.9 else random.integers(3)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=list(IDS.values())[label],
                    bbox=[x, y, width, height],
                    area=float(mask_utils.area(cut)),
                    segmentation=dict(cut, counts=cut['counts'].decode()),
                    iscrowd=int(random.random() < 0.05),
                )
            )
    categories = [dict(id=id, name=name) for name, id in IDS.items()]
    return dict(images=images, annotations=annotations, categories=categories)


def infer(name, model_dir, out, *options):
    images, checkpoint = model_dir / 'shapes' / 'val', model_dir / 'epoch_1.pth'
    flags = '--checkpoint', checkpoint, '--score-thr', 0, '--batch-size', 1
    return tool.run(name, images, '--out-dir', out, *flags, *options)


@contextmanager
def summed_up():
    """The twelve figures of each COCOeval that is summed up."""
    seen, real = [], COCOeval.summarize

    def summarize(self):
        real(self)
        seen.append(np.array(self.stats))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COCOeval, 'summarize', summarize)
        yield seen


@pytest.fixture(scope='module')
def expected(model_dir, tmp_path_factory):
    """What tools/test.py says of boxes and masks."""
    flags = '--fuse', '--work-dir', tmp_path_factory.mktemp('work')
    with summed_up() as stats:
        model = model_dir / 'config.py', model_dir / 'epoch_1.pth'
        assert tool.run('test', *model, *flags) == 0
    boxes, masks = stats
    for figures in boxes, masks:
        assert ((figures > 0.002) & (figures < 0.9)).all(), figures
    assert (abs(boxes - masks) > 0.001).any()
    return stats


def ap_of(rows, truth):
    """What the page's code says."""
    code = code_block('inference.md', 'python', '# The AP of rows')
    for old, new in (
        ('data/shapes/annotations/instances_val.json', truth),
        ('work_dirs/infer/predictions.parquet', rows),
    ):
        assert old in code
        code = code.replace(old, str(new))
    with summed_up() as stats:
        exec(code, {})
    return stats


def test_of_infer(model_dir, expected, tmp_path):
    flags = '--no-save-vis', '--format', 'parquet'
    assert infer('infer', model_dir, tmp_path, *flags) == 0
    found = ap_of(tmp_path / 'predictions.parquet', truth_of(model_dir))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('ray', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_of_infer_ray(ray, model_dir, expected, tmp_path, monkeypatch):
    pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
    if not ray:
        run_workers_here(monkeypatch)
    flags = '--block-size', 4, '--actors', 2
    assert infer('infer_ray', model_dir, tmp_path, *flags) == 0
    assert len(list((tmp_path / 'rows').glob('*.parquet'))) == 2
    found = ap_of(tmp_path / 'rows', truth_of(model_dir))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
