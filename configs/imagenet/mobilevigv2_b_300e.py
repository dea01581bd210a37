# MobileViGv2-B on ImageNet-1K: as M.
_base_ = './mobilevigv2_m_300e.py'
model = dict(backbone=dict(arch='b'), head=dict(in_channels=512, hidden_channels=768))
