# AdaptViG-B: as M, but for the authors' weight decay.
_base_ = './adaptvig_m_fpn_1x.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='mobilevig://adaptvig-b')),
    neck=dict(in_channels=[48, 96, 192, 384]),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
