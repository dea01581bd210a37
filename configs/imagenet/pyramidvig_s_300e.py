# Pyramid ViG-S on ImageNet-1K: the command in the authors' readme.
_base_ = './pyramidvig_ti_300e.py'
model = dict(backbone=dict(arch='s'), head=dict(in_channels=640))
