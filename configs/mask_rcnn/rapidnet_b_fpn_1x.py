# RapidNet-B: as M.
_base_ = './rapidnet_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='mobilevig://rapidnet-b')),
    neck=dict(in_channels=[64, 128, 224, 416]),
)
