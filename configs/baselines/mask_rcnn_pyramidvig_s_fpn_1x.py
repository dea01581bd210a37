# Mask R-CNN, Pyramid ViG-S, FPN: MobileViG's recipe; the authors' is not published.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type='PyramidViG',
        arch='s',
        init_cfg=dict(checkpoint='mobilevig://pyramidvig-s'),
    ),
    neck=dict(in_channels=[80, 160, 400, 640]),
)
