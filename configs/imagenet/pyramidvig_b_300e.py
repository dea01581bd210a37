# Pyramid ViG-B on ImageNet-1K: as S, but for tests 224 / 0.95 = 236 pixels.
_base_ = './pyramidvig_ti_300e.py'
model = dict(backbone=dict(arch='b'), head=dict(in_channels=1024))

test_pipeline = _base_.test_pipeline
test_pipeline[1].length = 236
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
