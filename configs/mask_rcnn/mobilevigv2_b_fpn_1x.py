# MobileViGv2-B: as M, but for the authors' weight decay.
_base_ = './mobilevigv2_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='mobilevig://mobilevigv2-b')),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
