# MobileViGv2-Ti on ImageNet-1K: as M.
_base_ = './mobilevigv2_m_300e.py'
model = dict(backbone=dict(arch='ti'), head=dict(in_channels=256, hidden_channels=512))
