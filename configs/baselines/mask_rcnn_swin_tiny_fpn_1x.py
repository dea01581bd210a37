# Mask R-CNN, Swin-T, with MobileViG's recipe.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='swin_tiny_patch4_window7_224',
        pretrained=True,
        drop_path_rate=0.1,
        strict_img_size=False,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
