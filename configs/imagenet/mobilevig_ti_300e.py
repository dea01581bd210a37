# MobileViG-Ti on ImageNet-1K: M's recipe, which is that of every size.
_base_ = './mobilevig_m_300e.py'
model = dict(backbone=dict(arch='ti'), head=dict(in_channels=256, hidden_channels=512))
