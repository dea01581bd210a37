"""Check that the COCO metrics of a split fit its data sets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from .config import Metric
from .report import FileReport

Images = Mapping[int | str, dict]


def check_metric(
    metric: Metric, known: Images | None, parts: Sequence[Images], report: FileReport
) -> None:
    """Check that a metric knows the images of the data sets that it evaluates.

    It is easily forgotten to change the file of the one together with the other's.
    Images are told apart by their ids, so that a metric of a ConcatDataset needs a
    file with the images of all its parts, under ids of their own.

    Args:
        metric (Metric): The metric.
        known (Images | None): Images of its annotation file by their ids, or None if
            it has no file of its own.
        parts (Sequence[Images]): Images of each data set.
        report (FileReport): Gets the findings.
    """
    numbers = Counter(id for part in parts for id in part)
    repeated = [id for id, number in numbers.items() if number > 1]
    if repeated and metric.kinds:
        report.error(
            'image ids that several data sets of the split have',
            detail=f'{_count(repeated)}. The metric would mix their images: give each '
            'an id of its own, or take a MultiDatasetsEvaluator',
        )
    if known is None:
        return
    loaded = {id: image for part in parts for id, image in part.items()}
    unknown = [id for id in loaded if id not in known]
    if unknown:
        report.error(
            'lacks images of the data set that it is to evaluate',
            detail=_count(unknown),
        )
    others = [
        id
        for id, image in loaded.items()
        if id in known and _identity(image) != _identity(known[id])
    ]
    if others:
        detail = f'{_count(others)}: the name or the size differs'
        report.error('has other images under the same ids', detail=detail)
    if len(known) > len(loaded) and not unknown and metric.kinds:
        report.warning(
            'has images that the data set lacks: their objects count as missed',
            detail=_count([id for id in known if id not in loaded]),
        )


def _count(ids: Sequence) -> str:
    return f'{len(ids)}, such as image {ids[0]}'


def _identity(image: dict) -> tuple:
    """Return what tells an image from others, wherever and in whatever format it is."""
    name = PurePosixPath(image['file_name'].replace('\\', '/')).stem
    return name, image['width'], image['height']


def evaluated_parts(metric: Metric, parts: Sequence) -> Sequence:
    """Return those of the data sets of a split that a metric evaluates."""
    return parts if metric.part is None else parts[metric.part : metric.part + 1]
