"""Mistakes in a config, its options and its file: one message that names the fix."""

from mobilevig_det.config import find_config, load_config
from mobilevig_det.config_errors import explain_config_error, parameters_of
from mobilevig_det.errors import UserError

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

CONFIG = 'mobilevig_ti_fpn_shapes'


def explained(function, *args, **kwargs):
    init_default_scope('mmdet')
    with pytest.raises(Exception) as found:  # noqa: B017
        function(*args, **kwargs)
    return explain_config_error(found.value)


@pytest.mark.parametrize(
    'option, name',
    [
        ('train_dataloader.batchsize=2', 'batch_size'),
        ('val_dataloader.num_worker=2', 'num_workers'),
        ('train_dataloader.sampler.shufle=True', 'shuffle'),
        ('train_dataloader.dataset.pipeline.1.with_masks=True', 'with_mask'),
        ('test_dataloader.dataset.anno_file=x.json', 'ann_file'),
        ('train_cfg.max_epoch=2', 'max_epochs'),
        ('train_cfg.val_intervall=2', 'val_interval'),
        ('default_hooks.checkpoint.max_keep_ckpt=1', 'max_keep_ckpts'),
        ('model.backbone.drop_path_rates=0.2', 'drop_path_rate'),
        ('model.rpn_head.loss_box.loss_weight=2', 'loss_bbox'),
        ('optim_wraper.optimizer.lr=1', 'optim_wrapper'),
        ('learning_rate.lr=1', None),
        ('lr=0.1', 'optim_wrapper.optimizer.lr'),
        ('batch_size=4', 'train_dataloader.batch_size'),
    ],
)
def test_misspelled_option_is_refused_with_the_nearest_name(option, name):
    if name is None:  # nothing is similar: the config gets a setting of its own
        assert load_config(CONFIG, [option]).learning_rate.lr == 1
        return
    with pytest.raises(UserError) as found:
        load_config(CONFIG, [option])
    assert f'--cfg-options {option.partition("=")[0]}: ' in str(found.value)
    assert str(found.value).endswith(f"Is it '{name}'?")


@pytest.mark.parametrize(
    'option',
    [
        'train_dataloader.prefetch_factor=4',
        'train_dataloader.pin_memory=True',
        'train_dataloader.dataset.test_mode=True',
        'train_dataloader.dataset.pipeline.1.with_seg=False',
        'model.neck.num_out=5',  # not similar enough to be sure; FPN refuses it
        'model.neck.out_channel_list=[1]',
        'model.backbone.with_cp=True',
        'default_hooks.checkpoint.save_best=auto',
        'optim_wrapper.accumulative_counts=2',
        'optim_wrapper.paramwise_cfg.norm_decay_mult=0',
        'env_cfg.cudnn_benchmark=True',
        'resume=True',
        'randomness.seed=3',
    ],
)
def test_settings_that_a_class_takes_can_be_added(option):
    if 'neck' not in option:
        load_config(CONFIG, [option])


@pytest.mark.parametrize(
    'name, meant',
    [
        ('mobilevigm_fpn_1x', 'mobilevig_m_fpn_1x'),
        ('mobilevig_m_fpn1x.py', 'mobilevig_m_fpn_1x'),
        ('configs/mask_rcnn/mobilevig-ti-fpn-1x.py', 'mobilevig_ti_fpn_1x'),
    ],
)
def test_misspelled_config_is_refused_with_the_nearest_name(name, meant):
    with pytest.raises(UserError, match=f"There is no config .* Is it '{meant}'"):
        find_config(name)


@pytest.mark.parametrize(
    'text, words',
    [
        ('x = undefined_name', "NameError: name 'undefined_name' is not defined"),
        ('x = 1 / 0', 'ZeroDivisionError: division by zero'),
        ('x = dict(a=1', 'SyntaxError: '),
        ("custom_imports = dict(imports=['not_there'])", 'ImportError: Failed to'),
        ("assert False, 'mine'", 'AssertionError: mine'),
    ],
)
def test_config_that_raises_is_one_message(tmp_path, text, words):
    path = tmp_path / 'mine.py'
    path.write_text(text + '\n')
    with pytest.raises(UserError) as found:
        load_config(str(path))
    assert str(path) in str(found.value) and words in str(found.value)
    assert '\n' not in str(found.value)


@pytest.mark.parametrize(
    'build, hint',
    [
        (
            lambda: MODELS.build(dict(type='FPN', in_chanels=[1])),
            "Is it 'in_channels'?",
        ),
        (lambda: MODELS.build(dict(type='MobileVig')), "Is it 'MobileViG'?"),
        (lambda: MODELS.build(dict(type='MaskRCN')), "Is it 'MaskRCNN'?"),
        (lambda: HOOKS.build(dict(type='LoggerHok')), "Is it 'LoggerHook'?"),
        (
            lambda: HOOKS.build(dict(type='EmptyCacheHook', before_epochs=True)),
            "Is it 'before_epoch'?",
        ),
        (
            lambda: MODELS.build(dict(type='RetinaNet', bakbone=None)),
            "Is it 'backbone'?",
        ),
        (
            lambda: Runner.build_dataloader(
                dict(
                    dataset=[0],
                    sampler=dict(type='DefaultSampler'),
                    batch_size=1,
                    num_worker=0,
                )
            ),
            "Is it 'num_workers'?",
        ),
        (lambda: Runner.from_cfg(ConfigDict(work_dir='x')), "'model' is missing"),
        (lambda: DATASETS.build(None), "got <class 'NoneType'>"),
    ],
)
def test_refused_setting_is_explained(build, hint):
    message = explained(build)
    assert message.startswith('The config does not fit: ') and hint in message
    assert '\n' not in message


def test_other_errors_are_not_explained():
    """Such as one of a library's own code, or of a class that is at work."""

    @HOOKS.register_module(force=True)
    class Working:
        def __init__(self):
            self.compute()

        def compute(self):
            raise ValueError('a bug')

    assert explained(HOOKS.build, dict(type='Working')) is None
    assert explained(lambda: 1 / 0) is None
    assert explained(torch.zeros(2).reshape, 3) is None


@pytest.fixture(scope='module')
def detector_cfg():
    return load_config('mobilevig_ti_fpn_shapes').model


@pytest.mark.parametrize(
    'part, channels, gets',
    [
        ('neck', [40, 80, 160, 200], '[42, 84, 168, 256]'),
        ('neck', [42, 84, 168], '[42, 84, 168, 256]'),
        ('rpn_head', 96, '[64, 64, 64, 64]'),
    ],
)
def test_channels_of_another_backbone_are_explained(detector_cfg, part, channels, gets):
    init_default_scope('mmdet')
    cfg = ConfigDict(detector_cfg)
    cfg[part] = dict(cfg[part], in_channels=channels)
    if len(str(channels)) == len('[42, 84, 168]'):
        cfg[part].num_outs = 3
    cfg.backbone = dict(cfg.backbone, init_cfg=None)
    model = MODELS.build(cfg).eval()
    message = explained(
        model, torch.zeros(1, 3, 64, 64), mode='tensor', data_samples=[]
    )
    assert f'model.{part} ' in message and f'maps of {gets} channels' in message
    assert f'Set model.{part}.in_channels' in message


def test_parameters_follow_the_base_classes():
    class Base:
        def __init__(self, a, *args, b=1):
            pass

    class Middle(Base):
        pass

    class Derived(Middle):
        def __init__(self, c, **kwargs):
            super().__init__(1, **kwargs)

    class Closed(Derived):
        def __init__(self, d):
            super().__init__(d)

    assert parameters_of(Derived) == {'a', 'b', 'c'}
    assert parameters_of(Closed) == {'d'}
    assert parameters_of(lambda x, *, y: 0) == {'x', 'y'}
