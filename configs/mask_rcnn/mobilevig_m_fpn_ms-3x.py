# Three times as many epochs, on images of several sizes, as in MMDetection's own ms-3x
# configs. Not run by the authors, nor by us; otherwise the authors' recipe.
_base_ = './mobilevig_m_fpn_1x.py'

train_pipeline = [
    dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True)
    if step.type == 'Resize'
    else step
    for step in _base_.train_pipeline  # noqa: F821
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_epochs=36, val_interval=3)
param_scheduler = _base_.param_scheduler  # noqa: F821
param_scheduler[1].update(end=36, milestones=[27, 33])
