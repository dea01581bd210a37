# Mask R-CNN, ResNet-50, with MobileViG's recipe.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='resnet50',
        pretrained=True,
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
