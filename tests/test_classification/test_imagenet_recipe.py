"""configs/imagenet/ is the authors' recipe, by timm's own functions."""

from mobilevig_det.classification.recipe import BatchMixing, WarmupCosineLR
from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, MODELS, TRANSFORMS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from PIL import Image
from torchvision_stand_in import import_with_stand_in


@pytest.fixture(scope='module')
def timm():
    return import_with_stand_in('timm')


@pytest.fixture(scope='module')
def mmpretrain():
    module = import_with_stand_in('mmpretrain')
    import_with_stand_in('mmpretrain.datasets')
    return module


@pytest.fixture(scope='module')
def cfg():
    init_default_scope('mmdet')
    return load_config('mobilevig_ti_300e')


@pytest.mark.parametrize(
    'arch, channels, hidden',
    [('ti', 256, 512), ('s', 256, 512), ('m', 400, 768), ('b', 464, 768)],
)
def test_sizes(arch, channels, hidden):
    model = load_config(f'mobilevig_{arch}_300e').model
    assert model.type == 'DistillingClassifier'
    assert (model.backbone.arch, model.backbone.drop_path_rate) == (arch, 0.1)
    assert (model.head.in_channels, model.head.hidden_channels) == (channels, hidden)
    assert model.head.num_classes == 1000


def test_schedule_is_timms(timm, cfg):
    """Every epoch's rate, as the authors' script steps timm's scheduler."""
    from timm.scheduler import CosineLRScheduler

    settings = dict(cfg.param_scheduler[0])
    assert settings.pop('type') == 'WarmupCosineLR'
    lr = cfg.optim_wrapper.optimizer.lr
    theirs, ours = (
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr) for _ in range(2)
    )
    reference = CosineLRScheduler(
        theirs, t_initial=300, lr_min=1e-5, warmup_t=20, warmup_lr_init=1e-6
    )
    scheduler = WarmupCosineLR(ours, **settings)
    rates = []
    for epoch in range(310):
        rates.append(ours.param_groups[0]['lr'])
        assert rates[-1] == pytest.approx(theirs.param_groups[0]['lr'], rel=1e-12)
        ours.step()
        reference.step(epoch)
        scheduler.step()
    assert rates[:2] == [1e-6, 1e-6]
    assert rates[2] == pytest.approx(1e-6 + (2e-3 - 1e-6) / 20)
    assert rates[-1] == 1e-5
    assert cfg.train_cfg.max_epochs == 300


def test_schedule_resumes():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    scheduler = WarmupCosineLR(optimizer)
    for _ in range(7):
        scheduler.step()
    state = scheduler.state_dict()
    again = WarmupCosineLR(optimizer)
    again.load_state_dict(state)
    again.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(scheduler.rate(2e-3, 8))


def test_warmup_must_end():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    with pytest.raises(UserError, match='must be less than'):
        WarmupCosineLR(optimizer, epochs=20, warmup_epochs=20)


def test_weight_decay_is_timms(timm, cfg):
    from timm.optim import param_groups_weight_decay

    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    no_decay, decay = (
        {names[id(p)] for p in group['params']}
        for group in param_groups_weight_decay(model, 0.05)
    )
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = wrapper.optimizer.param_groups
    ours = {names[id(p)]: g['weight_decay'] for g in groups for p in g['params']}
    assert {name for name, value in ours.items() if value == 0.05} == decay
    assert {name for name, value in ours.items() if value == 0} == no_decay
    assert 'backbone.stages.0.0.layer_scale' in decay
    assert wrapper.clip_grad_kwargs is None
    assert {g['lr'] for g in groups} == {2e-3}


def test_the_rest(cfg):
    assert cfg.model.teacher == dict(
        model='regnety_160',
        checkpoint='https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth',
    )
    assert cfg.model.alpha == 0.5
    (ema,) = cfg.custom_hooks
    assert 1 - ema.momentum == pytest.approx(0.99996, abs=1e-12)
    assert ema.update_buffers
    assert cfg.sync_bn == 'torch'
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.randomness == dict(seed=42, diff_rank_seed=True)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('on', [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixing_is_timms(timm, cfg, seed, on):
    """Equal from the same seed: mixup and CutMix, odd sizes."""
    from timm.data import Mixup

    settings = dict(cfg.model.data_preprocessor.mixing, num_classes=11)
    assert (settings['mixup'], settings['cutmix']) == (0.8, 1.0)
    settings.update(mixup=on[0], cutmix=on[1])
    images = torch.rand(6, 3, 15, 22, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([0, 3, 10, 3, 7, 1])
    np.random.seed(seed)
    want = Mixup(*on, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=11)(
        images.clone(), labels
    )
    np.random.seed(seed)
    before = images.clone()
    got = BatchMixing(**settings)(images, labels)
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1], want[1])
    assert torch.equal(images, before)


def test_mixing_refuses():
    with pytest.raises(UserError, match='mixup must be at least 0'):
        BatchMixing(mixup=-1)
    with pytest.raises(UserError, match='label_smoothing must be from 0 to 1'):
        BatchMixing(label_smoothing=2)


def rand_augment(cfg):
    """The config's RandAugment, for each interpolation."""
    return [
        transform
        for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'RandomChoice'
        for (transform,) in step.transforms
        if transform.type == 'mmpretrain.RandAugment'
    ]


# timm's names for MMPretrain's.
OPS = [
    'AutoContrast',
    'Equalize',
    'Invert',
    'Rotate',
    'PosterizeIncreasing',
    'SolarizeIncreasing',
    'SolarizeAdd',
    'ColorIncreasing',
    'ContrastIncreasing',
    'BrightnessIncreasing',
    'SharpnessIncreasing',
    'ShearX',
    'ShearY',
    'TranslateXRel',
    'TranslateYRel',
]


def test_rand_augment_is_timms(timm, mmpretrain, cfg):
    """The same operations, and of each the same range at every magnitude."""
    from timm.data import auto_augment

    theirs = auto_augment.rand_augment_transform(
        'rand-m9-mstd0.5-inc1', dict(img_mean=(124, 116, 104))
    )
    assert [op.name for op in theirs.ops] == OPS
    for transform in rand_augment(cfg):
        ours = TRANSFORMS.build(transform)
        assert ours.num_policies == theirs.num_layers == 2
        assert len(ours.transforms) == len(theirs.ops)
        assert transform.hparams.pad_val == [104, 116, 124]  # BGR
        for mine, op in zip(ours.transforms, theirs.ops):
            assert type(mine).__module__.startswith('mmpretrain')
            assert mine.prob == op.prob == 0.5
            if op.level_fn is None:
                continue
            assert mine.magnitude_level == op.magnitude == 9
            assert mine.magnitude_std == op.magnitude_std == 0.5
            low, high = mine.magnitude_range
            for level in (0, 2.5, 9, 10):
                (want,) = op.level_fn(level, op.hparams)
                got = level / mine.total_level * (high - low) + low
                if 'Increasing' in op.name and op.name[0] in 'CBS':
                    if not op.name.startswith('Solarize'):
                        want = max(want, 2 - want) - 1  # about 1
                if op.name.startswith(('Posterize', 'Solarize')):
                    assert abs(got - want) < 1  # whole numbers there
                else:
                    assert got == pytest.approx(abs(want))


def test_erasing_and_repeats(timm, mmpretrain, cfg):
    erasing = cfg.train_dataloader.dataset.pipeline[-2]
    assert (erasing.type, erasing.erase_prob) == ('mmpretrain.RandomErasing', 0.25)
    TRANSFORMS.build(erasing)
    assert (erasing.min_area_ratio, erasing.max_area_ratio) == (0.02, 1 / 3)
    loader = cfg.train_dataloader
    assert loader.drop_last and loader.batch_size * 8 == 1024
    # Three of each image after the other, as many in all as there are images.
    sampler = DATA_SAMPLERS.build(
        dict(loader.sampler, seed=0), default_args=dict(dataset=range(600))
    )
    order = list(sampler)
    assert len(order) == 600
    assert order[::3] == order[1::3] == order[2::3]


def test_train_pipeline_runs(mmpretrain, cfg, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / 'train' / name / '0.jpg')
    dataset = DATASETS.build(
        dict(cfg.train_dataloader.dataset, data_root=str(tmp_path) + '/', num_classes=2)
    )
    for _ in range(8):
        sample = dataset[1]
        assert sample['inputs'].shape == (3, 224, 224)
        assert sample['inputs'].dtype == torch.uint8
        assert sample['data_samples'].gt_label == 1


@pytest.mark.parametrize('size', [(300, 400), (401, 300), (248, 248), (97, 160)])
def test_test_pipeline_is_torchvisions(cfg, size):
    """Pillow's own resize and crop, by torchvision's rules."""
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(array)
    short = min(image.size)
    image = image.resize(
        tuple(248 if s == short else int(248 * s / short) for s in image.size),
        Image.Resampling.BICUBIC,
    )
    left, top = (int(round((s - 224) / 2.0)) for s in image.size)
    want = np.asarray(image.crop((left, top, left + 224, top + 224)))
    results = dict(img=array[..., ::-1].copy())
    for step in cfg.test_dataloader.dataset.pipeline[1:]:
        results = TRANSFORMS.build(step)(results)
    np.testing.assert_array_equal(
        results['inputs'].numpy()[::-1], want.transpose(2, 0, 1)
    )
