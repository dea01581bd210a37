# Mask R-CNN, RepViT-M1.1, which has no stochastic depth, with MobileViG's recipe.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        _delete_=True, type='TimmBackbone', model_name='repvit_m1_1', pretrained=True
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
