"""Find near-copies of reference images: the same image, compressed again or a few grey levels apart.

In: images `uint8 [B, H, W, C]`. Out: descriptors of the images, and whether each image is a near-copy. Pure: no model,
no I/O.

A row's distance from its own near-copy is almost 0. Near-copies of reference rows in the calibration set therefore make
the scores of this set too low, and `run` flags a larger share of rows than the target rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CELLS = 16
"""Maximum number of cells along each axis of an image; a descriptor consists of the channel means of the cells."""

COARSE_CELLS = 8
"""Number of cells along each axis in the first comparison, which uses only brightness.

If a descriptor has fewer than `CELLS` cells along an axis, the first comparison uses all of its cells."""

MAX_DIFFERENCE = 6.0
"""Maximum root mean square difference between the descriptors of near-copies, in grey levels."""

MAX_RELATIVE_DIFFERENCE = 0.1
"""Maximum difference as a share of the standard deviation of the descriptor; images of low contrast differ less than
other images.

Both limits were chosen on CIFAR-10 and MNIST. More than 99 % of images differ from their copies, compressed as JPEG of
quality 90, by less than both limits. None of 10,000 test images of CIFAR-10 is within both limits of any of 15,000
training images. One of 10,000 MNIST digits is within both limits of one of 50,000 other digits."""

MAX_SHARE = 0.01
"""Maximum share of the rows that may be near-copies of reference rows."""

WARNING_SHARE = 0.05
"""Share of rows that are exact copies of other rows, above which a notice is logged."""

_ROWS = 1024
"""Number of rows that are compared at once."""


def describe_images(images: NDArray[np.uint8]) -> Floats:
    """Descriptors `float32 [B, D]`: channel means of the cells of each image, in grey levels.

    Args:
        images: `uint8 [B, H, W, C]`.
    """
    sums = images.astype(np.float32)
    for axis in (1, 2):
        size = images.shape[axis]
        edges = np.linspace(0, size, min(CELLS, size) + 1).round().astype(np.int64)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis)
        sums /= np.diff(edges).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(4)])
    return sums.reshape(len(images), -1)


class NearCopies:
    """Finds the near-copies of a set of reference images.

    The root mean square difference between means is at most the root mean square difference between the averaged
    values. A first comparison of a few means of brightness therefore rules out nearly all pairs.

    Args:
        reference: descriptors of the reference images, `float32 [N, D]`.
        channels: number of channels of an image, C.
    """

    def __init__(self, reference: Floats, channels: int) -> None:
        self._reference, self._channels = reference, channels
        self._coarse = self._coarsen(reference)
        self._squares = (self._coarse**2).sum(axis=1)

    def find(self, descriptors: Floats) -> NDArray[np.bool_]:
        """Which images are near-copies of a reference image, `[B]`.

        Args:
            descriptors: `float32 [B, D]`.
        """
        found = np.zeros(len(descriptors), np.bool_)
        limits = np.minimum(MAX_DIFFERENCE, MAX_RELATIVE_DIFFERENCE * descriptors.std(axis=1))
        coarse = self._coarsen(descriptors)
        for start in range(0, len(descriptors), _ROWS):
            part = slice(start, start + _ROWS)
            squares = (coarse[part] ** 2).sum(axis=1)[:, None] + self._squares - 2 * coarse[part] @ self._coarse.T
            # The limit is one grey level higher here, because float32 values are rounded.
            near = squares <= ((limits[part] + 1) ** 2 * coarse.shape[1])[:, None]
            for row in np.flatnonzero(near.any(axis=1)).tolist():
                differences = self._reference[near[row]] - descriptors[start + row]
                found[start + row] = np.sqrt((differences**2).mean(axis=1)).min() <= limits[start + row]
        return found

    def _coarsen(self, descriptors: Floats) -> Floats:
        """Mean brightness of the cells, `[B, d]`, minus 127.5.

        If the cells form a square of side `CELLS`, d is `COARSE_CELLS` squared; otherwise, d is the number of cells.
        """
        cells = descriptors.shape[1] // self._channels
        side = int(np.sqrt(cells))
        brightness = descriptors.reshape(len(descriptors), cells, self._channels).mean(axis=2)
        if side * side == cells and side == CELLS:
            step = CELLS // COARSE_CELLS
            parts = brightness.reshape(-1, COARSE_CELLS, step, COARSE_CELLS, step)
            brightness = parts.mean(axis=(2, 4)).reshape(len(descriptors), -1)
        coarse: Floats = brightness - np.float32(127.5)
        return coarse
