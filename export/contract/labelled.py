"""Types of labelled data for the accuracy check of an export.

In: nothing. Out: `LabelledBatch`, digests of images, and the types of the functions that read batches: `Labelled` and
`LabelledReader`. The package `screen` implements these functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from export.contract.metadata import ModelContract

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledBatch:
    """A batch of decoded images and their labels.

    Attributes:
        images: `uint8 [B, H, W, C]`, decoded and resized according to the contract.
        labels: one label for each image, as stored: an integer, a class name, or for multi-label data a list of
            0 and 1; None if the row has no label.
        unreadable: statuses of the rows whose image could not be decoded.
    """

    images: NDArray[np.uint8]
    labels: tuple[Any, ...]
    unreadable: tuple[str, ...] = ()


def identify_images(images: NDArray[np.uint8]) -> list[int]:
    """B integers: a 64-bit digest of the pixels of each image in `uint8 [B, H, W, C]`."""
    return [int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in images]


Labelled = Callable[[ModelContract], Iterable[LabelledBatch]]
"""Function that returns batches of labelled rows, decoded and resized for a contract. The export calls this function
before it converts the model, so that an unreadable data set is refused early."""


class LabelledReader(Protocol):
    """Function that reads and decodes labelled rows; `AccuracyConfig.choose_rows` makes a `Labelled` from it."""

    def __call__(
        self,
        contract: ModelContract,
        source: str,
        *,
        label_column: str,
        image_column: str,
        image_root: str | None,
        rows: int,
    ) -> Iterable[LabelledBatch]:
        """Batches of labelled rows: at most `rows` rows in all, drawn from all shards of `source`."""
