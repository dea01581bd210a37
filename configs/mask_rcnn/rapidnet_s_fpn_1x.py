# RapidNet-S: no detection run of it was published; the recipe is M's.
_base_ = './rapidnet_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='s', init_cfg=dict(checkpoint='mobilevig://rapidnet-s')),
    neck=dict(in_channels=[32, 64, 112, 224]),
)
