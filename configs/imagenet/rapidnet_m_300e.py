# RapidNet-M on ImageNet-1K: MobileViG's recipe, which is that of every sibling.
_base_ = './mobilevig_m_300e.py'
model = dict(
    backbone=dict(type='RapidNet', arch='m'),
    head=dict(in_channels=320, hidden_channels=512),
)
