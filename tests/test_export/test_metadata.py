"""Metadata of exported files."""

import inspect

from mobilevig_det.export.metadata import make_metadata

from exported import build, config
from mmdet.models.dense_heads import RTMDetInsHead


def test_padding_of_the_pipeline_is_written():
    """RTMDet's pipeline pads with grey, before normalisation."""
    cfg = config('RTMDet-Ins')
    metadata = make_metadata(cfg, build(cfg), ('a',), 'detector')
    assert metadata['pad'] == {'size': [640, 640], 'value': [114, 114, 114]}


def test_tells_whether_mmdetection_swaps_the_scale_factors_of_masks(monkeypatch):
    cfg = config('RTMDet-Ins')
    model = build(cfg)
    masks = make_metadata(cfg, model, ('a',), 'detector')['masks']
    by_x = 'mask_logits.shape[-2] * scale_factor[0]'
    swapped = by_x in inspect.getsource(RTMDetInsHead._bbox_mask_post_process)
    expected = {'kind': 'image', 'stride': 8, 'threshold': 0.5, 'swapped': swapped}
    assert masks == expected
    real = model.bbox_head._bbox_mask_post_process

    def other_order(*args, img_meta, **options):
        x, y = img_meta['scale_factor']
        return real(*args, img_meta=dict(img_meta, scale_factor=(y, x)), **options)

    monkeypatch.setattr(model.bbox_head, '_bbox_mask_post_process', other_order)
    masks = make_metadata(cfg, model, ('a',), 'detector')['masks']
    assert masks == expected | {'swapped': not swapped}
