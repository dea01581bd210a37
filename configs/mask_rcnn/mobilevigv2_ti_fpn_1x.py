# MobileViGv2-Ti: no detection run of it was published; the recipe is M's.
_base_ = './mobilevigv2_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='ti', init_cfg=dict(checkpoint='mobilevig://mobilevigv2-ti')),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
