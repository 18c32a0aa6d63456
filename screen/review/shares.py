"""Where a share lies that was counted among some rows.

In: hits, and of how many. Out: an interval. Pure.
"""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(hits: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval, which holds for few rows too (1927, JASA 22; Brown et al. 2001, eq. 4).

    Args:
        hits: how many rows count.
        rows: of how many; without any, the share may be anything.
        level: of confidence, 0 to 1.
    """
    if not rows:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = hits / rows, z * z / rows
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / rows + weight / (4 * rows)) / (1 + weight)
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == rows else centre + half
    return low, high
