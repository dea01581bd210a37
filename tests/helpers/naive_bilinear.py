"""A map read between its pixels, as the definition says, in Python floats."""

import math


def bilinear(rows, y, x):
    """Sum over all pixels of the map (a list of rows), each weighted by
    max(0, 1 - distance) along both axes; 0 where that isn't a number."""
    if not (math.isfinite(y) and math.isfinite(x)):
        return 0.0
    total = 0.0
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            total += max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j)) * value
    return total
