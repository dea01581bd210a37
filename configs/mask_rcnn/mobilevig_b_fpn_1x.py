# MobileViG-B: as M, but for the authors' smaller weight decay.
_base_ = './mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='mobilevig://b')),
    neck=dict(in_channels=[42, 84, 240, 464]),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
