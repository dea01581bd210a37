# Mask R-CNN, AdaptViG-M, FPN, COCO 2017, 12 epochs: the authors' recipe, which is
# MobileViG's but for the backbone and its smaller weight decay.
_base_ = './mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        type='AdaptViG', arch='m', init_cfg=dict(checkpoint='mobilevig://adaptvig-m')
    ),
    neck=dict(in_channels=[48, 96, 192, 320]),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
