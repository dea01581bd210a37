# MobileViG-Ti: no detection run of it was published; the recipe is M's.
_base_ = './mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='ti', init_cfg=dict(checkpoint='mobilevig://ti')),
    neck=dict(in_channels=[42, 84, 168, 256]),
)
