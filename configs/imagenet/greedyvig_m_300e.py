# GreedyViG-M on ImageNet-1K: MobileViG's recipe, which is that of every sibling.
_base_ = './mobilevig_m_300e.py'
model = dict(
    backbone=dict(type='GreedyViG', arch='m'),
    head=dict(in_channels=448, hidden_channels=768),
)
# Its layer scales are vectors, which timm leaves without decay.
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))
