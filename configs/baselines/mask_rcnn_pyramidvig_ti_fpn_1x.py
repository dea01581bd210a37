# Mask R-CNN, Pyramid ViG-Ti, FPN: MobileViG's recipe; the authors' is not published.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type='PyramidViG',
        arch='ti',
        init_cfg=dict(checkpoint='mobilevig://pyramidvig-ti'),
    ),
    neck=dict(in_channels=[48, 96, 240, 384]),
)
