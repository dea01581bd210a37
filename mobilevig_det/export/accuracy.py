"""AP of an exported detector, and the loss of AP that int8 may cause."""

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from terminaltables import AsciiTable

from ..errors import UserError
from .exported_detector import ExportedDetector

NUMBER = 500  # of images to evaluate
MAX_LOSS = 0.006  # of AP, which is at most 1


def evaluate(path: str | Path, cfg: Config, number: int = NUMBER) -> dict[str, float]:
    """Evaluate an exported detector with the config's ``val_evaluator``.

    Args:
        path (str | Path): The .onnx or .xml file.
        cfg (Config): The config of the detector.
        number (int): Number of images: the first ones of the validation set.
            Defaults to 500.

    Returns:
        dict[str, float]: Each AP, for example ``coco/bbox_mAP`` and
        ``coco/segm_mAP``, from 0 to 1.

    Raises:
        UserError: If the evaluator computes no AP.
    """
    with _quiet_evaluation():
        loader = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader))
        evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
    evaluator.dataset_meta = loader.dataset.metainfo
    model = ExportedDetector(str(path), cfg.model.data_preprocessor).eval()
    seen: list[int] = []
    for batch in loader:
        samples = model.val_step(batch)
        evaluator.process(data_samples=samples, data_batch=batch)
        seen += [sample.img_id for sample in samples]
        if len(seen) >= number:
            break
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):
            metric.img_ids = seen  # else COCO's metric counts the others as missed
    with _quiet_evaluation():
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
    float32: Mapping[str, float], int8: Mapping[str, float], max_loss: float = MAX_LOSS
) -> None:
    """Print the AP of both files, and raise if int8 loses too much.

    Args:
        float32 (Mapping[str, float]): From :func:`evaluate`.
        int8 (Mapping[str, float]): Likewise.
        max_loss (float): The largest loss of AP that is allowed, from 0 to 1.

    Raises:
        UserError: If any AP falls by more.
    """
    header = ['AP', 'float32', 'int8', 'lost']
    rows = [
        [key, f'{ap:.3f}', f'{int8[key]:.3f}', f'{ap - int8[key]:.3f}']
        for key, ap in float32.items()
    ]
    print(AsciiTable([header, *rows]).table)
    if not any(ap > 0 for ap in float32.values()):
        print('Every AP of the float32 file is 0, so this says nothing about int8.')
    # Metrics round to thousandths, whose differences are not exact.
    wrong = [
        row for row in rows if not float32[row[0]] - int8[row[0]] <= max_loss + 1e-9
    ]
    if wrong:
        words = ', '.join(f'{key} {drop} ({a} to {b})' for key, a, b, drop in wrong)
        raise UserError(
            f'In int8 the detector loses more AP than the {max_loss} that are allowed, '
            f'and is not kept: {words}. Export it without --int8.'
        )


@contextlib.contextmanager
def _quiet_evaluation() -> Iterator[None]:
    """Suppress log messages and COCO's tables: :func:`check_accuracy` prints the AP."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
