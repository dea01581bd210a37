# RapidNet-S on ImageNet-1K: as M.
_base_ = './rapidnet_m_300e.py'
model = dict(backbone=dict(arch='s'), head=dict(in_channels=224, hidden_channels=512))
