# AdaptViG-B on ImageNet-1K: as M.
_base_ = './adaptvig_m_300e.py'
model = dict(backbone=dict(arch='b'), head=dict(in_channels=384, hidden_channels=768))
