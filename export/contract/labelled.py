"""Labelled rows, as a check of an export takes them.

In: nothing. Out: the type of one batch, and of the function that reads batches; `screen` implements the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract


@dataclass(frozen=True)
class LabelledBatch:
    """Images with their labels.

    Attributes:
        images: `uint8 [B, H, W, C]`, decoded as the contract says.
        labels: one for each image, as stored: a whole number, a class name, for several labels a
            list of 0 and 1; None where there is none.
        unreadable: the status of each row that has no image here.
    """

    images: NDArray[np.uint8]
    labels: tuple[Any, ...]
    unreadable: tuple[str, ...] = ()


Labelled = Callable[[ModelContract], Iterable[LabelledBatch]]
"""What reads labelled rows once the size of the images is known; called before the model is converted."""
