"""What a measurement says of a published figure."""

from collections.abc import Iterable

from .confidence import Interval
from .figures import Figure

REPRODUCED = 'reproduced'
MISSED = 'missed'
NOT_CHECKED = 'not checked'
INFORMATION = 'for information'  # no figure was published
FEWEST = 200  # images of a part: fewer prove nothing, whatever they show


def judge(
    figure: Figure,
    measured: float,
    interval: Interval | None = None,
    images: int | None = None,
) -> str:
    """Whether the published figure is reproduced.

    It is where it differs by no more than the tolerance; of a part of the images,
    where it is in their 95 % interval, widened by the tolerance. A part of less
    than 200 images is no check.

    Args:
        figure (Figure): The published one.
        measured (float): In the same unit.
        interval (tuple[float, float], optional): Of a part of the images.
        images (int, optional): How many images the part has.
    """
    if figure.published is None:
        return INFORMATION
    if interval and (images or 0) < FEWEST:
        return NOT_CHECKED
    low, high = interval or (measured, measured)
    off = figure.tolerance + 1e-9  # figures have few digits, floats many
    inside = low - off <= figure.published <= high + off
    return REPRODUCED if inside else MISSED


def exit_code(verdicts: Iterable[str]) -> int:
    """1 if a figure was missed, or else 2 if one was not checked, or else 0."""
    seen = set(verdicts)
    return 1 if MISSED in seen else 2 if NOT_CHECKED in seen else 0
