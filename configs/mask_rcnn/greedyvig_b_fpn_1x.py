# GreedyViG-B: as S.
_base_ = './greedyvig_s_fpn_1x.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='mobilevig://greedyvig-b')),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
