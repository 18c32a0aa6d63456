"""Draw the masks of T passes: the same T thinned networks for every row.

In: a seed and the sites. Out: `float32 [P, 1, *noise_shape]` for each site and run of passes.

A mask is a pure function of (seed, site, pass): raw Philox4x64-10 words (Salmon et al. 2011),
keyed by the seed and a digest of the site's name, counted from the pass. Only the raw words are
taken from numpy, because its higher-level streams may change between versions; a golden test
holds them.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from export.contract import Site

ALGORITHM = "philox4x64-10/1"
"""Changes whenever the same seed would give other masks; part of a run's fingerprint."""


def draw_mask(seed: int, site: Site, index: int) -> NDArray[np.float32]:
    """The mask of one site in one pass.

    Args:
        seed: 0 to 2**64 - 1.
        site: its name keys the stream, its rate and noise_shape make the mask.
        index: the pass, from 0.

    Returns:
        `[*noise_shape]`, 0 with probability `rate`, else `1 / (1 - rate)` (inverted dropout).
    """
    count = math.prod(site.noise_shape)
    stream = np.random.Philox(
        key=np.array([seed, _site_key(site)], np.uint64), counter=np.array([0, 0, index, 0], np.uint64)
    )
    words = stream.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    keep = words >= np.uint32(min(round(site.rate * 2**32), 2**32 - 1))
    return (keep * np.float32(1 / (1 - site.rate))).astype(np.float32).reshape(site.noise_shape)


def draw_masks(seed: int, site: Site, start: int, count: int) -> NDArray[np.float32]:
    """The masks of one site in passes `start` to `start + count - 1`: `[count, 1, *noise_shape]`."""
    return np.stack([draw_mask(seed, site, start + index) for index in range(count)])[:, np.newaxis]


def _site_key(site: Site) -> int:
    return int.from_bytes(hashlib.blake2b(site.name.encode(), digest_size=8).digest(), "little")
