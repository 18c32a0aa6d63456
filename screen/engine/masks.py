"""Draw the dropout masks of T passes, shared by all rows or independent for each row.

In: a seed and the sites. Out: `float32 [P, 1, *noise_shape]` for each site and session run of P passes; with masks per
row `[P, B, *noise_shape]`. Each pass evaluates one thinned network (Srivastava et al. 2014); with shared masks, the
same T thinned networks are evaluated for all rows.

A mask is a pure function of (seed, site, pass), and with masks per row also of the row's pixels. A mask is computed
from raw Philox4x64-10 words (Salmon et al. 2011). The key of Philox depends on the seed, the site's name and, with
masks per row, a digest of the row's pixels. The counter of Philox depends on the pass. numpy provides only the raw
words, because numpy's distributions may change between versions; tests compare masks with stored values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.contract.labelled import identify_images
from export.contract.metadata import ALPHA_KINDS, GAUSSIAN_KINDS, Site

ALGORITHM = "philox4x64-10/1"
"""Version of the mask algorithm, part of a run's fingerprint. Change it whenever the same seed gives other masks."""


_BLOCK_WORDS = 4  # Philox4x64 generates four words for each value of its counter


def draw_mask(seed: int, site: Site, index: int) -> NDArray[np.float32]:
    """The mask of one site in one pass.

    Args:
        seed: seed for the dropout masks, 0 to 2**64 - 1.
        site: the site; its name is part of the key, and its kind, rate and noise_shape determine the distribution and
            the shape of the mask.
        index: index of the pass, from 0.

    Returns:
        `[*noise_shape]`. Dropout: 0 with probability `rate`, else `1 / (1 - rate)` (inverted dropout).
        Alpha dropout: 0 with probability `rate`, else 1; the graph applies the affine transformation.
        Gaussian dropout: normal with mean 1 and variance `rate / (1 - rate)`.
    """
    count = math.prod(site.noise_shape) * _words_of(site)
    stream = np.random.Philox(
        key=np.array([seed, _site_key(site)], np.uint64), counter=np.array([0, 0, index, 0], np.uint64)
    )
    words = stream.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    return _to_mask(words, site).reshape(site.noise_shape)


def draw_masks(seed: int, site: Site, start: int, count: int) -> NDArray[np.float32]:
    """The masks of one site in passes `start` to `start + count - 1`: `[count, 1, *noise_shape]`."""
    return np.stack([draw_mask(seed, site, start + index) for index in range(count)])[:, np.newaxis]


def keep_all(site: Site, count: int) -> NDArray[np.float32]:
    """Masks that drop nothing, for passes without dropout: ones, `[count, 1, *noise_shape]`."""
    return np.ones((count, 1, *site.noise_shape), np.float32)


def draw_row_masks(seed: int, site: Site, rows: Sequence[int], start: int, count: int) -> NDArray[np.float32]:
    """The masks of one site in passes `start` to `start + count - 1`, independent for every row.

    Args:
        seed: as for `draw_mask`.
        site: as for `draw_mask`.
        rows: digest of each row's pixels (`identify_rows`). The digest is part of the key, so that a row has the same
            masks in every batch.
        start: index of the first pass.
        count: number of passes.

    Returns:
        `[count, B, *noise_shape]`.
    """
    size = math.prod(site.noise_shape) * _words_of(site)
    words = -(-size // 2)
    blocks = -(-words // _BLOCK_WORDS)
    seed_key = _digest(seed.to_bytes(8, "little") + site.name.encode())
    counter = np.array([start * blocks, 0, 0, 1], np.uint64)
    bits = np.empty((len(rows), count, blocks * _BLOCK_WORDS), "<u8")
    for index, row in enumerate(rows):
        stream = np.random.Philox(key=np.array([seed_key, row], np.uint64), counter=counter)
        bits[index] = stream.random_raw(count * blocks * _BLOCK_WORDS).reshape(count, -1)
    masks = _to_mask(bits.view("<u4")[..., :size], site)
    return np.ascontiguousarray(masks.swapaxes(0, 1)).reshape(count, len(rows), *site.noise_shape)


def identify_rows(images: NDArray[np.uint8]) -> list[int]:
    """A 64-bit digest of each image's pixels: `[B, H, W, C]` to B integers."""
    return identify_images(images)


def _words_of(site: Site) -> int:
    """Number of uniform 32-bit words for each element of the mask."""
    return 2 if site.kind in GAUSSIAN_KINDS else 1


def _to_mask(words: NDArray[np.uint32], site: Site) -> NDArray[np.float32]:
    """Mask elements from uniform 32-bit words; a Gaussian element uses a word of each half of the last axis."""
    if site.kind in GAUSSIAN_KINDS:
        uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
        half = uniform.shape[-1] // 2
        # Box and Muller (1958), cosine branch only.
        normal = np.sqrt(-2 * np.log(uniform[..., :half])) * np.cos(2 * np.pi * uniform[..., half:])
        factors: NDArray[np.float32] = (1 + math.sqrt(site.rate / (1 - site.rate)) * normal).astype(np.float32)
        return factors
    keep = words >= np.uint32(min(round(site.rate * 2**32), 2**32 - 1))
    kept = 1.0 if site.kind in ALPHA_KINDS else 1 / (1 - site.rate)
    return np.multiply(keep, np.float32(kept), dtype=np.float32)


def _site_key(site: Site) -> int:
    return _digest(site.name.encode())


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
