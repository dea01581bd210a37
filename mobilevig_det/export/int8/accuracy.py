"""AP of an exported detector, by MMDetection's evaluator; how much int8 may lose."""

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from terminaltables import AsciiTable

from ...errors import UserError
from .. import exported_detector  # noqa: F401  registers ExportedDetector

NUMBER = 500  # of images that are evaluated at most
LOST = 0.006  # of AP, which is at most 1


def evaluate(path: str | Path, cfg: Config, number: int = NUMBER) -> dict[str, float]:
    """Every AP that the config's ``val_evaluator`` gives an exported detector.

    Args:
        path (str | Path): The .onnx or .xml file.
        cfg (Config): The config that it was made of.
        number (int): Only so many images, the first ones, are looked at.

    Returns:
        dict[str, float]: For example ``coco/bbox_mAP`` and ``coco/segm_mAP``, of 1.

    Raises:
        UserError: If it gives none.
    """
    with _hushed():
        loader = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader))
        evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
    evaluator.dataset_meta = loader.dataset.metainfo
    model = MODELS.build(
        dict(
            type='ExportedDetector',
            path=str(path),
            data_preprocessor=cfg.model.data_preprocessor,
        )
    ).eval()
    seen: list[int] = []
    for batch in loader:
        samples = model.val_step(batch)
        evaluator.process(data_samples=samples, data_batch=batch)
        seen += [sample.img_id for sample in samples]
        if len(seen) >= number:
            break
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):  # COCO's, else the others would be missed
            metric.img_ids = seen
    with _hushed():
        found = evaluator.evaluate(len(seen))
    aps = {key: value for key, value in found.items() if key.endswith('AP')}
    if not aps:
        raise UserError(
            f"--int8: the config's val_evaluator gives no AP, but {', '.join(found)}."
        )
    kind = 'int8' if model.metadata['int8'] else 'float32'
    print(f'{Path(path).name} in {kind}: {len(seen)} validation images.')
    return aps


def check_accuracy(
    float32: Mapping[str, float], int8: Mapping[str, float], lost: float = LOST
) -> None:
    """Print both, and refuse what lost too much.

    Args:
        float32 (Mapping[str, float]): From :func:`evaluate`.
        int8 (Mapping[str, float]): Likewise.
        lost (float): How much AP may be lost, of 1.

    Raises:
        UserError: If any AP fell by more.
    """
    header = ['AP', 'float32', 'int8', 'lost']
    rows = [
        [key, f'{ap:.3f}', f'{int8[key]:.3f}', f'{ap - int8[key]:.3f}']
        for key, ap in float32.items()
    ]
    print(AsciiTable([header, *rows]).table)
    if not any(ap > 0 for ap in float32.values()):
        print('An AP of 0 cannot be lost: this says nothing about int8.')
    # A metric rounds to thousandths, which are no exact floats.
    wrong = [row for row in rows if not float32[row[0]] - int8[row[0]] <= lost + 1e-9]
    if wrong:
        words = ', '.join(f'{key} {drop} ({a} to {b})' for key, a, b, drop in wrong)
        raise UserError(
            f'In int8 the detector loses more AP than the {lost} that are allowed, '
            f'and is not kept: {words}. Export it without --int8.'
        )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without COCO's tables; the AP is printed beside float32's."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
