"""Verification of exported files: what counts as the same, and what as borderline."""

from contextlib import nullcontext

from mobilevig_det.errors import UserError
from mobilevig_det.export import verification
from mobilevig_det.export.onnx import write_onnx_backbone
from mobilevig_det.export.openvino import write_openvino
from mobilevig_det.export.verification import examples, verify_backbone, verify_detector
from mobilevig_det.export.verification.detections import (
    Detections,
    Reference,
    match,
    smallest_mask_iou,
    unexplained_differences,
)
from mobilevig_det.export.verification.examples import Example

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from tiny_backbone import METADATA

CFG = ConfigDict(score_thr=0.05, max_per_img=3, nms=dict(iou_threshold=0.5))


def detections(*rows):
    """Of (x1, y1, x2, y2, label, score)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4].astype(np.int64), table[:, 5])


BASE = (0, 0, 10, 10, 0, 0.9)


@pytest.mark.parametrize(
    'other,paired',
    [
        ((0, 0, 10, 10.04, 0, 0.9), True),
        ((0, 0, 10, 10.06, 0, 0.9), False),
        ((0, 0, 10, 10, 1, 0.9), False),
        ((0, 0, 10, 10, 0, 0.90009), True),
        ((0, 0, 10, 10, 0, 0.9002), False),
    ],
)
def test_pairs(other, paired):
    found = match(detections(other), detections(BASE))
    assert found.pairs == ([(0, 0)] if paired else [])


def test_each_detection_has_one_match_in_any_order():
    near = (0, 0, 10, 10.02, 0, 0.9)
    found = match(detections(BASE, near), detections(near, BASE))
    assert sorted(found.pairs) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    'extra,excused',
    [
        ((20, 0, 30, 10, 0, 0.0505), True),  # the score threshold
        ((20, 0, 30, 10, 0, 0.06), False),
        ((0, 0, 10, 20, 0, 0.8), True),  # an overlap of 0.5 with a better one
        ((0, 0, 10, 20, 1, 0.8), False),  # of another class
        ((0, 0, 10, 18, 0, 0.8), False),
    ],
)
def test_borderline(extra, excused):
    file, model = detections(BASE, extra), detections(BASE)
    wrong = unexplained_differences(match(file, model), file, model, CFG, [])
    assert bool(wrong) != excused


def test_borderline_at_the_largest_number():
    rows = [(20 * i, 0, 20 * i + 9, 9, 0, 0.5 - 0.0001 * i) for i in range(4)]
    file, model = detections(*rows[:3]), detections(rows[0], rows[1], rows[3])
    assert not unexplained_differences(match(file, model), file, model, CFG, [])
    roomy = ConfigDict(CFG, max_per_img=9)
    assert len(unexplained_differences(match(file, model), file, model, roomy, [])) == 2


def test_perturbed_thresholds_excuse_what_they_change():
    extra = (20, 0, 30, 10, 0, 0.5)
    file, model = detections(BASE, extra), detections(BASE)
    found = match(file, model)
    assert unexplained_differences(found, file, model, CFG, [model])
    assert not unexplained_differences(found, file, model, CFG, [model, file])


@pytest.mark.parametrize(
    'pairs,alone,excused',
    [(0, 2, True), (0, 3, False), (57, 3, True), (56, 3, False), (10, 40, False)],
)
@pytest.mark.parametrize('swapped', [False, True])
def test_many_unmatched_detections_are_an_error(pairs, alone, excused, swapped):
    """Each is within NEAR of the score threshold, but there are too many of them."""
    rows = [(20 * i, 0, 20 * i + 9, 9, 0, 0.5) for i in range(pairs)]
    extra = [(20 * i, 20, 20 * i + 9, 29, 0, 0.0505) for i in range(alone)]
    file, model = detections(*rows, *extra), detections(*rows)
    if swapped:
        file, model = model, file
    roomy = ConfigDict(CFG, max_per_img=1000)
    # Perturbed thresholds do not excuse them either.
    for perturbed in [], [file, model]:
        wrong = unexplained_differences(
            match(file, model), file, model, roomy, perturbed
        )
        assert len(wrong) == (0 if excused else 1)
    if not excused:
        assert wrong[0].startswith('PyTorch alone has' if swapped else 'the file alone')
        assert f'{alone} of its {pairs + alone} detections' in wrong[0]


def test_masks():
    model = np.full((1, 10, 10), 0.1)
    model[0, :5] = 0.9
    file = model.copy()
    assert smallest_mask_iou([(0, 0)], file, model, 0.5) == 1
    file[0, 0, 0] = 0.4
    assert smallest_mask_iou([(0, 0)], file, model, 0.5) == pytest.approx(49 / 50)
    model[0, 0, 0] = 0.5004
    assert smallest_mask_iou([(0, 0)], file, model, 0.5) == 1


class Maps(torch.nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image):
        return self.detector.extract_feat(image)


@pytest.mark.parametrize('size', [None, (64, 96)])
def test_backbone(exporters, size, tmp_path):
    exporter = exporters['RetinaNet']
    backbone = Maps(exporter.model)
    path = tmp_path / 'maps.onnx'
    write_onnx_backbone(backbone, path, size, METADATA)
    write_openvino(path, path.with_suffix('.xml'), METADATA)
    for suffix in ('.onnx', '.xml'):
        args = exporter.model, exporter.cfg, size
        rows = verify_backbone(path.with_suffix(suffix), backbone, *args)
        assert all(len(row) == 6 for row in rows)
    with torch.no_grad():
        exporter.model.neck.fpn_convs[0].conv.bias += 0.01
    with pytest.raises(UserError, match='map0 differs'):
        verify_backbone(path, backbone, *args)
    with torch.no_grad():
        exporter.model.neck.fpn_convs[0].conv.bias -= 0.01


class WrongLater:
    """A session that is wrong from some image of the same size on."""

    def __init__(self, compute, first_wrong):
        self.compute, self.first_wrong, self.seen = compute, first_wrong, {}

    def __call__(self, image, **size):
        images = self.seen.setdefault(image.shape, [])
        assert not any(np.array_equal(image, other) for other in images)
        images.append(image)
        found = self.compute(image, **size)
        if len(images) >= self.first_wrong:
            found = {name: array + 1 for name, array in found.items()}
        return found


@pytest.mark.parametrize('number', [1, 3])
@pytest.mark.parametrize('what', ['detector', 'maps', 'maps of one size'])
def test_wrong_from_a_later_image_of_one_size_on(what, number, exporters, monkeypatch):
    """OpenVINO's Loop was; the test set may have only one image."""
    exporter = exporters['RetinaNet']
    model, backbone = exporter.model, Maps(exporter.model)
    images = list(examples._generate_images())[:number]
    monkeypatch.setattr(examples, '_generate_images', lambda: iter(images))

    def detect(image, size):
        example = Example(torch.from_numpy(image), tuple(size.tolist()))
        found = Reference(model, example).detections()._asdict()
        return {name: array for name, array in found.items() if array is not None}

    def maps(image):
        found = backbone(torch.from_numpy(image))
        return {f'map{i}': x.detach().numpy() for i, x in enumerate(found)}

    def run(first_wrong):
        session = WrongLater(detect if what == 'detector' else maps, first_wrong)
        patch = nullcontext(session)
        monkeypatch.setattr(verification, 'load_with_graph_steps', lambda path: patch)
        if what == 'detector':
            return verify_detector('fake', model, exporter.cfg)
        size = (64, 96) if what == 'maps of one size' else None
        return verify_backbone('fake', backbone, model, exporter.cfg, size)

    assert run(4)
    for first_wrong in (2, 3):
        with pytest.raises(UserError, match='something else than the model'):
            run(first_wrong)
