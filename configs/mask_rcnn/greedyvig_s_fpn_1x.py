# Mask R-CNN, GreedyViG-S, FPN, COCO 2017, 12 epochs: the authors' recipe, which is
# MobileViG's but for the backbone.
_base_ = './mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        type='GreedyViG', arch='s', init_cfg=dict(checkpoint='mobilevig://greedyvig-s')
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)

# The number of GPUs, and so the batch, is not published.
train_dataloader = dict(batch_size=1)
