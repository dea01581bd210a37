# The runtime of a classifier: the detectors' one without what is for detectors.
_base_ = './default_runtime.py'
custom_imports = dict(imports=['mobilevig_det.classification'])
train_cfg = dict(
    type='mobilevig_det.engine.ResumableEpochTrainLoop', max_epochs=300, val_interval=1
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
val_evaluator = dict(type='TopKAccuracy')
test_evaluator = val_evaluator
default_hooks = dict(
    _delete_=True,
    **{
        name: hook
        for name, hook in _base_.default_hooks.items()
        if name not in ('visualization', 'winograd')
    },
)
default_hooks['checkpoint'].update(interval=1, max_keep_ckpts=2)
visualizer = dict(
    _delete_=True, type='Visualizer', vis_backends=_base_.visualizer.vis_backends
)
