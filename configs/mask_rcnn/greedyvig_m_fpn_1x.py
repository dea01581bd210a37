# GreedyViG-M: no detection run of it was published; the recipe is S's.
_base_ = './greedyvig_s_fpn_1x.py'

model = dict(
    backbone=dict(arch='m', init_cfg=dict(checkpoint='mobilevig://greedyvig-m')),
    neck=dict(in_channels=[56, 112, 224, 448]),
)
