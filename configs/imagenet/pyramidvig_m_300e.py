# Pyramid ViG-M on ImageNet-1K: as S.
_base_ = './pyramidvig_ti_300e.py'
model = dict(backbone=dict(arch='m'), head=dict(in_channels=768))
