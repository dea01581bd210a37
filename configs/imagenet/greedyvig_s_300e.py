# GreedyViG-S on ImageNet-1K: as M.
_base_ = './greedyvig_m_300e.py'
model = dict(backbone=dict(arch='s'), head=dict(in_channels=384, hidden_channels=768))
