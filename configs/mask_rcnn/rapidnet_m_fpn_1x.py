# Mask R-CNN, RapidNet-M, FPN, COCO 2017, 12 epochs: the authors' recipe, which is
# MobileViG's but for the backbone.
_base_ = './mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        type='RapidNet', arch='m', init_cfg=dict(checkpoint='mobilevig://rapidnet-m')
    ),
    neck=dict(in_channels=[32, 64, 160, 320]),
)

# The number of GPUs, and so the batch, is not published.
train_dataloader = dict(batch_size=1)
