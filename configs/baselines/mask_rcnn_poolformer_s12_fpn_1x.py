# Mask R-CNN, PoolFormer-S12, with MobileViG's recipe.
_base_ = '../mask_rcnn/mobilevig_m_fpn_1x.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='poolformer_s12',
        pretrained=True,
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
