"""Test images for the comparison of an exported file with its source model.

In: an image shape. Out: raw pixels: noise, coarse blocks, and images with the statistics of photographs. Noise alone
is not enough, because filters for edges and surfaces hardly respond to noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SMALL_IMAGE = 64 * 64
"""Maximum number of pixels of an image for which the full number of test images is made."""

_LARGE_IMAGE = 512 * 512
"""Maximum number of pixels of an image for which noise and blocks are made."""

_LEAVES = 100
"""Number of discs in an image of dead leaves."""


def make_probe(image_shape: tuple[int, int, int], *, small: bool, seed: int) -> NDArray[np.uint8]:
    """Test images `uint8 [B, height, width, channels]`: noise, blocks of a quarter of the side, and dead leaves.

    Args:
        image_shape: `(height, width, channels)`.
        small: whether the network is small; for large networks and for large images, fewer images are made.
        seed: seed of the images.
    """
    height, width, channels = image_shape
    rng = np.random.default_rng(seed)
    each = 4 if small and height * width <= _SMALL_IMAGE else 1
    leaves = [dead_leaves(image_shape, rng) for _ in range(each)]
    if height * width > _LARGE_IMAGE:
        return np.stack(leaves)
    noise = rng.integers(0, 256, (each, height, width, channels), dtype=np.uint8)
    coarse = rng.integers(0, 256, (each, 4, 4, channels), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.concatenate([noise, coarse[:, rows][:, :, columns], np.stack(leaves)])


def dead_leaves(image_shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image of discs that cover each other, with edges, surfaces and scales as in photographs.

    The density of the radii is proportional to radius^-3, which makes the statistics the same at every scale (Lee,
    Mumford and Huang 2001, Occlusion models for natural images).
    """
    height, width, channels = image_shape
    image = np.empty(image_shape, np.uint8)
    image[:] = rng.integers(0, 256, channels)
    rows, columns = np.mgrid[:height, :width]
    side = max(height, width)
    smallest, largest = 0.04, 0.5  # radii, as shares of the longer side
    for _ in range(_LEAVES):
        share = rng.random()
        radius = side / np.sqrt(share / smallest**2 + (1 - share) / largest**2)
        row, column = rng.random() * height, rng.random() * width
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        image[inside] = rng.integers(0, 256, channels)
    return image
