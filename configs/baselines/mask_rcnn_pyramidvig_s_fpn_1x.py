# Mask R-CNN, Pyramid ViG-S, FPN: MobileViG's recipe; the authors' is not published.
_base_ = 'mask_rcnn_pyramidvig_ti_fpn_1x.py'

model = dict(
    backbone=dict(arch='s', init_cfg=dict(checkpoint='mobilevig://pyramidvig-s')),
    neck=dict(in_channels=[80, 160, 400, 640]),
)
