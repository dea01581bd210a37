"""What the threads of the pipeline make of a result: its record and its drawing."""

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from .drawings import Drawings
from .records import Record
from .results import Result


class Encoded(NamedTuple):
    """What is kept of an image or a frame.

    Attributes:
        record (Record | None): None if it has one already.
        drawn (np.ndarray | None): A drawn frame.
    """

    record: Record | None
    drawn: np.ndarray | None = None


class RecordEncoder:
    """Makes a record of each result, and draws it; called in threads.

    The drawing of an image is written first: an image with a record is done.

    Args:
        category_ids (Sequence[int]): Ids of the model's classes.
        drawings (Drawings | None): Draws the results. Defaults to None.
        done (Container[str]): Names that have a record; their frames are only
            predicted again to draw the video. Defaults to ().
    """

    def __init__(
        self,
        category_ids: Sequence[int],
        drawings: Drawings | None = None,
        done: Container[str] = (),
    ) -> None:
        self.category_ids = category_ids
        self.drawings = drawings
        self.done = done

    def __call__(self, result: Result) -> Encoded:
        record = result.to_record(self.category_ids)
        drawn = self.drawings.draw(result) if self.drawings is not None else None
        return Encoded(None if result.name in self.done else record, drawn)
