# RapidNet-B on ImageNet-1K: as M.
_base_ = './rapidnet_m_300e.py'
model = dict(backbone=dict(arch='b'), head=dict(in_channels=416, hidden_channels=768))
