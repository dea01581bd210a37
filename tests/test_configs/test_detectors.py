"""The recipes of docs/use_in_your_project.md, run as they are printed.

Each is MMDetection's published config with the page's keys changed, and every
width, depth and number of queries as published. Made small: the image (also
where Mask2Former pads to a fixed size), and how many proposals and candidates
are kept (in train_cfg and test_cfg). The score threshold is 0, so that an
untrained model predicts something.
"""

import re

import mobilevig_det
from mobilevig_det import MobileViG
from mobilevig_det.config import load_config

import numpy as np
import pytest
import torch
from checkpoints import imagenet_checkpoint
from markdown_pages import DOCS, code_block
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmengine.utils import is_installed
from reference import golden_state_dict
from siblings import CLASSES, SMALLEST
from siblings import golden_state_dict as sibling_weights

PAGE = 'use_in_your_project.md'
FAMILIES = {
    'Faster R-CNN',
    'Cascade Mask R-CNN',
    'RetinaNet',
    'FCOS',
    'ATSS',
    'GFL',
    'RTMDet-ins',
    'SOLOv2',
    'PointRend',
    'Panoptic FPN',
    'Mask2Former',
    'Deformable DETR',
    'DINO',
}
WITH_MASKS = {'Cascade Mask R-CNN', 'RTMDet-ins', 'SOLOv2', 'PointRend', 'Mask2Former'}
# Height and width, multiples of nothing. DINO picks 900 of the positions that
# its encoder sees: there must be as many.
SIZE = (93, 125)
SIZES = {'DINO': (187, 251)}
FEW = dict(score_thr=0.0, max_per_img=20, nms_pre=100, num=64)
RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def recipes():
    """Family -> config text: each code block, for every row of the table that
    follows it."""
    found = {}
    for part in (DOCS / PAGE).read_text().split('```python\n')[1:]:
        config, _, rest = part.partition('```')
        rows = re.findall(r'^\| (.+?) \| `(mmdet::.+?)` \|$', rest, re.M)
        for family, base in rows:
            found[family] = re.sub("mmdet::[^']*", base, config, count=1)
    return found


def batch(size=SIZE, sem_seg=False):
    """One image with two objects, one of them 5 pixels small."""
    boxes = [[10, 20, 80, 70], [60, 30, 65, 35]]
    masks = np.zeros((2, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(
        metainfo=dict(
            img_id=1, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)
        ),
        gt_instances=InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.tensor([3, 17]),
            masks=BitmapMasks(masks, *size),
        ),
    )
    if sem_seg:
        semantic = torch.full((1, *size), 90)
        for label, mask in zip((3, 17), masks):
            semantic[0][torch.from_numpy(mask).bool()] = label
        sample.gt_sem_seg = PixelData(sem_seg=semantic)
    image = np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8)
    return dict(inputs=[torch.from_numpy(image)], data_samples=[sample])


def keep_few(cfg):
    """Set the numbers of FEW wherever they are, at any depth."""
    for key, value in cfg.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                keep_few(part)
        if key in FEW:
            cfg[key] = FEW[key]


def changed_keys(ours, theirs, prefix=''):
    """Dotted names of what differs between two configs, whole dicts where
    the type does. MMEngine marks what was inherited with a ``_scope_``."""
    for key in {*ours, *theirs} - {'_scope_'}:
        a, b = (_plain(cfg.get(key)) for cfg in (ours, theirs))
        if (
            isinstance(a, dict)
            and isinstance(b, dict)
            and a.get('type') == b.get('type')
        ):
            yield from changed_keys(a, b, f'{prefix}{key}.')
        elif a != b:
            yield prefix + key


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != '_scope_'}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A folder with what stands in for the authors' checkpoint of M."""
    folder = tmp_path_factory.mktemp('weights')
    torch.save(imagenet_checkpoint('m'), folder / 'MobileViG_M_80_7.pth.tar')
    return folder


def test_page_has_every_family():
    assert set(recipes()) == FAMILIES


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_recipe(family, tmp_path, weights, monkeypatch):
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(weights))
    MMLogger.get_current_instance().setLevel('WARNING')
    path = tmp_path / 'config.py'
    path.write_text(recipes()[family])
    cfg = Config.fromfile(path)

    # Only the keys that the page speaks of.
    base = re.search("_base_ = '(.*)'", path.read_text())[1]
    published = get_config(base)
    assert set(changed_keys(cfg, published)) <= {
        'custom_imports',
        'model.backbone',
        'model.neck.in_channels',
        'model.panoptic_head.in_channels',
        'model.data_preprocessor.mean',
        'model.data_preprocessor.std',
        'model.data_preprocessor.bgr_to_rgb',
    }
    # The images as the checkpoint wants them.
    for key, value in RGB.items():
        assert cfg.model.data_preprocessor[key] == value

    model = trains_and_predicts(cfg, family)
    assert torch.equal(
        model.backbone.stem[0].conv.weight, golden_state_dict('m')['stem.stem.0.weight']
    )


@pytest.mark.slow
@pytest.mark.parametrize('family', ['Cascade Mask R-CNN', 'FCOS', 'RTMDet-ins'])
@pytest.mark.parametrize('sibling, arch', SMALLEST)
def test_recipe_of_a_sibling(sibling, arch, family, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(recipes()[family])
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    ours = getattr(mobilevig_det, CLASSES[sibling])
    channels = ours.out_channels(arch, backbone.get('out_indices', (0, 1, 2, 3)))
    assert len(channels) == len(cfg.model.neck.in_channels)
    torch.save(sibling_weights(sibling, arch), tmp_path / 'backbone.pth')
    backbone.update(type=CLASSES[sibling], arch=arch)
    backbone.init_cfg.checkpoint = str(tmp_path / 'backbone.pth')
    cfg.model.neck.in_channels = channels
    trains_and_predicts(cfg, family)


def trains_and_predicts(cfg, family):
    for name in ('train_cfg', 'test_cfg'):
        keep_few(cfg.model.get(name) or {})
    for augment in cfg.model.data_preprocessor.get('batch_augments') or ():
        augment.size = (96, 128)
    if family == 'RTMDet-ins':  # its own pipelines pad before
        cfg.model.data_preprocessor.update(pad_size_divisor=32, pad_mask=True)
    size = SIZES.get(family, SIZE)
    data = batch(size, family == 'Panoptic FPN')
    # With one image in the batch, a dropped block would learn nothing.
    cfg.model.backbone.drop_path_rate = 0.0
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()

    # A step: every loss is finite, and all of the backbone learns.
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    loss, log = model.parse_losses(losses)
    loss.backward()
    assert all(torch.isfinite(value).all() for value in log.values()), log
    for name, param in model.backbone.named_parameters():
        assert param.grad is not None, name
        assert torch.isfinite(param.grad).all(), name
        # The bias of a convolution before a norm has none, but for rounding.
        if param.ndim > 1:
            assert param.grad.abs().sum() > 0, name

    # A prediction: of the structure that the family's own evaluator takes.
    model.eval()
    with torch.no_grad():
        (found,) = model.test_step(batch(size, family == 'Panoptic FPN'))
    if family == 'Panoptic FPN':
        panoptic = found.pred_panoptic_seg.sem_seg
        assert panoptic.shape == (1, *size)
        # 80 things, 53 stuff classes, and void
        assert 0 <= panoptic.min() and panoptic.max() % INSTANCE_OFFSET <= 133
        return model
    found = found.pred_instances
    assert len(found) > 0
    assert found.scores.shape == found.labels.shape == (len(found),)
    assert torch.isfinite(found.scores).all()
    assert 0 <= found.labels.min() and found.labels.max() < 80
    assert found.bboxes.shape == (len(found), 4)
    assert torch.isfinite(found.bboxes).all()
    assert ('masks' in found) == (family in WITH_MASKS)
    if 'masks' in found:
        assert found.masks.shape == (len(found), *size)
        assert found.masks.dtype == torch.bool
    return model


def test_diff(tmp_path):
    """Both sides of the diff are configs, of a ResNet-50 and of MobileViG."""
    lines = code_block(PAGE, 'diff', ' _base_ = ').splitlines(keepends=True)
    cfg = {}
    for side in '-+':
        path = tmp_path / 'config.py'
        path.write_text(''.join(line[1:] for line in lines if line[0] in (' ', side)))
        cfg[side] = Config.fromfile(path)
    assert cfg['-'].model.backbone.type == 'ResNet'
    assert cfg['-'].model.backbone.depth == 50
    assert set(changed_keys(cfg['+'], cfg['-'])) == {
        'custom_imports',
        'model.backbone',
        'model.neck.in_channels',
    }
    arch = cfg['+'].model.backbone.arch
    assert cfg['+'].model.neck.in_channels == MobileViG.out_channels(arch)


def test_optimizer(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(recipes()['GFL'] + code_block(PAGE, 'python', 'optim_wrapper'))
    cfg = Config.fromfile(path)
    model = torch.nn.Linear(2, 2)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    published = load_config('mobilevig_m_fpn_1x')
    for key in ('type', 'lr', 'weight_decay'):
        assert (
            cfg.optim_wrapper.optimizer[key] == published.optim_wrapper.optimizer[key]
        )
    assert cfg.auto_scale_lr.base_batch_size == published.auto_scale_lr.base_batch_size


def test_pure_python_config(tmp_path, monkeypatch):
    command = code_block(PAGE, 'bash', 'python -c')
    monkeypatch.chdir(tmp_path)
    exec(re.search('"(.*)"', command)[1])
    path = tmp_path / 'config.py'
    path.write_text(code_block(PAGE, 'python', 'from mmengine.config'))
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type is MobileViG
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(batch(), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    # RetinaNet takes no map of stride 4, but what leads to the others.
    for name, param in model.backbone.named_parameters():
        assert param.grad is not None, name


def test_segmentor(tmp_path, monkeypatch, weights):
    pytest.importorskip('mmseg', exc_type=ModuleNotFoundError)
    from mmseg.registry import MODELS as SEGMENTORS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(weights))
    path = tmp_path / 'config.py'
    config = code_block(PAGE, 'python', "_base_ = 'mmseg")
    if not is_installed('mmsegmentation'):  # but its fork
        first = code_block(PAGE, 'python', "_base_ = __import__('mmseg')")
        config = first + config.partition('\n')[2]
    path.write_text(config)
    cfg = Config.fromfile(path)
    cfg.model.data_preprocessor.size = None
    cfg.model.data_preprocessor.size_divisor = 32
    cfg.model.backbone.drop_path_rate = 0.0
    try:
        register_all_modules(init_default_scope=True)
        model = revert_sync_batchnorm(SEGMENTORS.build(cfg.model))
        model.init_weights()
        sample = SegDataSample(
            metainfo=dict(img_shape=SIZE, ori_shape=SIZE),
            gt_sem_seg=PixelData(data=torch.full((1, *SIZE), 7)),
        )
        data = dict(inputs=batch()['inputs'], data_samples=[sample])
        model.train()
        losses = model(**model.data_preprocessor(data, True), mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        assert torch.isfinite(loss)
        for name, param in model.backbone.named_parameters():
            assert param.grad is not None, name
        model.eval()
        with torch.no_grad():
            (found,) = model.test_step(data)
        assert found.pred_sem_seg.data.shape == (1, *SIZE)
    finally:
        DefaultScope.get_instance('back', scope_name='mmdet')
