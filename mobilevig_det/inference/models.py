"""Find a model by name, work directory or file, and load it for inference."""

import copy
import glob
import os
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import Compose
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..backbones import fuse_backbones
from ..checkpoints import explain_mismatch, load_from_mobilevig
from ..checkpoints.weights import PUBLISHED, SCHEME
from ..classification import load_classifier
from ..classification.config_checks import is_classifier
from ..config import check_device, find_checkpoint, find_config
from ..datasets.image_folder import list_classes
from ..errors import UserError
from ..export.exported_detector import SUFFIXES, ExportedDetector
from ..ops.cpu_fast_paths import apply_cpu_fast_paths, cpu_fast_paths_enabled
from ..paths import clone_root
from .predictors import ClassificationPredictor, DetectionPredictor, Predictor
from .results import labels_of

DEMO = Path('work_dirs', 'demo')
CHECKPOINTS = ('.pth', '.pt', '.tar', '.safetensors')


def find_model(
    config: str | None = None, checkpoint: str | None = None
) -> tuple[str | None, str]:
    """Find the config and the checkpoint where one or both are not given.

    Args:
        config (str | None): The path or name of a config.
        checkpoint (str | None): The path or URL of a checkpoint, the name of published
            weights (``mobilevig://coco-m``), or an exported detector (.onnx, .xml).

    Returns:
        tuple[str | None, str]: The config and the checkpoint. The config is None for
        an exported detector, whose metadata replaces it.

    Raises:
        UserError: If the model is not found or ambiguous.
    """
    if config and not checkpoint:
        raise UserError('--config needs the --checkpoint that goes with it.')
    if checkpoint is None:
        root = clone_root()
        for folder in (DEMO, root / DEMO) if root else (DEMO,):
            if found := newest_checkpoint(folder):
                return only_config(str(folder)), found
        raise UserError(
            'No model is given, and `make demo` has left none: there is no checkpoint '
            f'in {DEMO.resolve()}. Give --config and --checkpoint, or run `make demo` '
            'first.'
        )
    if config is None and published_name(checkpoint) in PUBLISHED:
        return config_of(published_name(checkpoint)), checkpoint
    find_checkpoint(checkpoint)
    if config is None and not checkpoint.endswith(SUFFIXES):
        config = only_config(osp.dirname(checkpoint))
    return config, checkpoint


def find_by_name(model: str) -> tuple[str | None, str]:
    """Find the config and the checkpoint of ``Detector(model)``.

    Args:
        model (str): The name of published weights, a work directory, a checkpoint in
            the same folder as its config, or an exported detector.

    Returns:
        tuple[str | None, str]: The config and the checkpoint; see :func:`find_model`.

    Raises:
        UserError: If ``model`` is none of these.
    """
    if osp.isdir(model):
        found = newest_checkpoint(Path(model))
        if found is None:
            raise UserError(f'There is no best_*.pth or epoch_*.pth in {model}.')
        return only_config(model), found
    if published_name(model) in PUBLISHED and not osp.isfile(model):
        name = published_name(model)
        return config_of(name), SCHEME + name
    if model.endswith((*CHECKPOINTS, *SUFFIXES)):
        return find_model(None, model)
    find_config(model)  # raises an error with similar names if there is none
    raise UserError(
        f'{model!r} is a config, which needs the checkpoint that goes with it as the '
        f'second argument. Published weights are {", ".join(PUBLISHED)}.'
    )


def newest_checkpoint(folder: Path) -> str | None:
    """Return the best checkpoint of a work directory, or else the newest one.

    Args:
        folder (Path): The work directory.

    Returns:
        str | None: The path of ``best_*.pth``, ``epoch_*.pth`` or ``iter_*.pth``, or
        None if there is no such file.
    """
    best = sorted(folder.glob('best_*.pth'), key=os.path.getmtime)
    newest = sorted(
        [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')], key=os.path.getmtime
    )
    found = best or newest
    return str(found[-1]) if found else None


def only_config(folder: str) -> str:
    """Return the path of the only config in a folder.

    Raises:
        UserError: If the folder has no config, or several.
    """
    configs = glob.glob(osp.join(glob.escape(folder), '*.py'))
    if len(configs) != 1:
        raise UserError(
            f'{len(configs) or "No"} configs are in {folder or "."}, the folder of the '
            'checkpoint: give one with --config.'
        )
    return configs[0]


def published_name(checkpoint: str) -> str:
    """Return the name of published weights without the scheme ``mobilevig://``."""
    return checkpoint.removeprefix(SCHEME).lower()


def config_of(name: str) -> str:
    """Return the path of the config of published weights."""
    base, is_detector = name.removeprefix('coco-'), name.startswith('coco-')
    family, _, size = base.rpartition('-')
    recipe = 'fpn_1x' if is_detector else '300e'
    return find_config(f'{family or "mobilevig"}_{size}_{recipe}')


def load_predictor(
    cfg: Config | None,
    checkpoint: str,
    device: str | None = None,
    score_thr: float = 0.0,
    classes: str | Sequence[str] | None = None,
    fuse: bool = True,
) -> Predictor:
    """Load a detector or a classifier for inference.

    Args:
        cfg (Config | None): The config; None is allowed for an exported detector.
        checkpoint (str): The checkpoint, as returned by :func:`find_model`.
        device (str | None): The device, for example 'cuda:1'. Defaults to None, which
            uses a GPU if one is available.
        score_thr (float): Minimum score of a prediction. Defaults to 0.
        classes (str | Sequence[str], optional): Names of the classes to keep. Defaults
            to None, which keeps all classes.
        fuse (bool): Whether to fuse the backbone's BatchNorms and branches. Defaults
            to True.

    Returns:
        Predictor: The model in evaluation mode, with its preprocessing.

    Raises:
        UserError: If the checkpoint does not match the config, or the device is not
            available.
    """
    if device is not None:
        check_device(device)
    cfg = copy.deepcopy(cfg)
    init_default_scope((cfg or {}).get('default_scope') or 'mmdet')
    if checkpoint.endswith(SUFFIXES):
        predictor: Predictor = _load_exported(cfg, checkpoint)
    else:
        assert cfg is not None, 'find_model() returns one of every checkpoint'
        _raise_score_thr(cfg, score_thr)
        load = _load_classifier if is_classifier(cfg) else _load_detector
        predictor = load(cfg, checkpoint)
        model = predictor.model.eval()
        if fuse:
            fuse_backbones(model)
        if cpu_fast_paths_enabled(cfg):
            apply_cpu_fast_paths(model)
        model.to(device or get_device())
    predictor.score_thr = score_thr
    if classes is not None:
        predictor.labels = labels_of(classes, predictor.classes)
    return predictor


def _raise_score_thr(cfg: Config, score_thr: float) -> None:
    """Raise the score threshold in a detector's ``test_cfg``.

    No masks are then predicted for detections below the threshold. All other
    detections are unchanged, because NMS goes from higher scores to lower ones.
    """
    test_cfg = cfg.model.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn') or {}):
        if 'score_thr' in part:
            part['score_thr'] = max(part['score_thr'], score_thr)


def _load_detector(cfg: Config, checkpoint: str) -> DetectionPredictor:
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    content = load_from_mobilevig(checkpoint, 'cpu')
    with explain_mismatch('The checkpoint'):
        _load_checkpoint_to_model(model, content, strict=True)
    known = content.get('meta', {})
    meta = {k.lower(): v for k, v in (known.get('dataset_meta') or {}).items()}
    if 'CLASSES' in known:
        meta.setdefault('classes', known['CLASSES'])
    own = dataset_meta(cfg)
    model.dataset_meta = dict(meta, classes=tuple(meta.get('classes', own['classes'])))
    if own.get('palette') or 'palette' not in meta:
        model.dataset_meta['palette'] = own.get('palette')
    return DetectionPredictor(
        model,
        test_pipeline(cfg.test_dataloader.dataset.pipeline),
        model.dataset_meta['classes'],
        palette=model.dataset_meta['palette'],
    )


def _load_exported(cfg: Config | None, path: str) -> DetectionPredictor:
    """Load an exported detector, whose metadata describes the preprocessing."""
    classes = None if cfg is None else dataset_meta(cfg)['classes']
    model = ExportedDetector(path, classes=classes)
    return DetectionPredictor(
        model.eval(),
        test_pipeline(model.pipeline),
        model.dataset_meta['classes'],
        palette=model.dataset_meta['palette'],
        can_copy=False,  # A session already uses all threads.
    )


def _load_classifier(cfg: Config, checkpoint: str) -> ClassificationPredictor:
    """Load a classifier with its raw weights, for which the top-1 is published."""
    model = MODELS.build(cfg.model)
    classes = load_classifier(model, checkpoint) or _class_names(cfg)
    pipeline = test_pipeline(cfg.test_dataloader.dataset.pipeline)
    return ClassificationPredictor(model, pipeline, classes)


def _class_names(cfg: Config) -> tuple[str, ...]:
    """Return class names for a classifier whose checkpoint has none.

    They are the folder names of the config's data set if that is available, and class
    indices otherwise.
    """
    number = cfg.model.head.get('num_classes', 1000)
    for split in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        folder = osp.join(
            dataset.get('data_root') or '',
            (dataset.get('data_prefix') or {}).get('img', ''),
        )
        if osp.isdir(folder) and len(names := list_classes(folder)) == number:
            return tuple(names)
    return tuple(str(i) for i in range(number))


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """Return the metainfo of a config's test data set, without reading its files.

    Args:
        cfg (Config): The config.

    Returns:
        dict[str, Any]: The metainfo, for example ``classes`` and ``palette``.
    """
    dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
    return DATASETS.build(dataset).metainfo


def test_pipeline(steps: Sequence[dict]) -> Compose:
    """Build a test pipeline that takes ``dict(img=array)`` instead of a path.

    Args:
        steps (Sequence[dict]): Configs of the transforms. ``LoadImageFromFile`` is
            replaced by ``LoadImageFromNDArray``.

    Returns:
        Compose: The pipeline.
    """
    built = [TRANSFORMS.build(dict(type='mmdet.LoadImageFromNDArray'))]
    for step in map(dict, steps):
        if str(step['type']).rpartition('.')[-1] == 'LoadImageFromFile':
            continue
        if 'meta_keys' in step:
            step['meta_keys'] = tuple(k for k in step['meta_keys'] if k != 'img_id')
        built.append(TRANSFORMS.build(step))
    return Compose(built)
