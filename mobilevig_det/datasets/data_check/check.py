"""All checks of a config's data, one after the other."""

from collections.abc import Sequence

from mmengine.config import Config

from .annotations import AnnotationChecker
from .config import check_evaluators, check_heads
from .images import check_images
from .report import DataReport
from .splits import splits_of


def check_data(
    cfg: Config,
    names: Sequence[str] = ('train', 'val', 'test'),
    decode: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> DataReport:
    """Check the data sets of a config.

    Args:
        cfg (Config): A whole config.
        names (Sequence[str]): Whose loaders: 'train', 'val', 'test'.
        decode (bool): Whether to decode every image. If not, the beginning
            and the end of each file are looked at. Defaults to True.
        workers (int, optional): Threads that read images. Defaults to None:
            twice the number of cores, at least 8.
        progress (bool): Whether to show a progress bar. Defaults to True.

    Returns:
        DataReport: All that was found; nothing on a clean set.
    """
    report = DataReport()
    check_heads(cfg, report)
    checkers = []
    for split in splits_of(cfg, names):
        checker = AnnotationChecker(split, report)
        checker.check()
        check_images(checker, decode, workers, progress)
        checkers.append(checker)
    for name in names:
        check_evaluators(
            cfg, name, [c for c in checkers if c.split.name == name], report
        )
    return report
