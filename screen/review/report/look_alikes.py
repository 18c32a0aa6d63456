"""Group similar images among the top-ranked flagged rows, so that a page shows each kind of image once.

In: positions of rows in the order of review, and the input shards. Out: `RowGroup`s. Two images are similar if the
colours and the contrasts of their 16 cells differ by at most fixed limits, and if the model predicts the same class:
copies and slight variations of one image are similar, and so are images of random noise. The grouping depends only on
the rows and their order. The time for the grouping grows with the number of compared rows, which the caller limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from screen.input.preview import Picture
from screen.review.report.pictures import InputImages
from screen.review.results import Results, RowPosition

_SIDE, _CELLS = 64, 4
"""Side of the reduced image on which contrasts are measured, in pixels, and number of cells along this side."""

_COLOUR_LIMIT, _CONTRAST_LIMIT = 0.08, 0.06
"""Maximum root mean square difference of two similar images, over the mean colours of the cells and over the standard
deviations of brightness in the cells; pixel values are 0 to 1."""

_COLOURS = _CELLS * _CELLS * 3


@dataclass(frozen=True)
class RowGroup:
    """A row, and the rows after it whose images are similar.

    Attributes:
        first: the top-ranked row of the group.
        similar: the other rows, in the order of review.
    """

    first: RowPosition
    similar: tuple[RowPosition, ...] = ()


def group_rows(
    results: Results, flagged: Sequence[RowPosition], others: Sequence[RowPosition], top: int, moved_to: str | None
) -> tuple[RowGroup, ...]:
    """At most `top` groups: groups of flagged rows, then single rows that are not compared.

    A row whose image is not available is a group of its own.

    Args:
        results: results that the rows belong to.
        flagged: flagged rows to compare, in the order of review.
        others: further rows, in the order of review.
        top: maximum number of groups.
        moved_to: current location of the input shards; None if they were not moved.

    Raises:
        InputRefused: a result shard was changed or damaged after the run.
    """
    if len(flagged) > 1:
        groups = _join(flagged, *_describe_rows(results, flagged, moved_to), top)
    else:
        groups = [RowGroup(position) for position in flagged]
    return tuple([*groups, *map(RowGroup, others)][:top])


def describe(picture: Picture) -> NDArray[np.float32]:
    """`[64]`: the mean colours of the cells of an image, then the standard deviations of brightness in the cells."""
    means = picture.image.convert("RGB").resize((_CELLS, _CELLS), Image.Resampling.BOX)
    # Single pixels, not means of pixels: the mean of noise is flat.
    sampled = picture.image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    width = _SIDE // _CELLS
    cells = np.asarray(sampled, np.float32).reshape(_CELLS, width, _CELLS, width)
    features = np.concatenate([np.asarray(means, np.float32).ravel(), cells.std(axis=(1, 3)).ravel()])
    return (features / 255).astype(np.float32)


def are_similar(one: NDArray[np.float32], many: NDArray[np.float32]) -> NDArray[np.bool_]:
    """`[n]`: whether each of n images `[n, 64]` is similar to one image `[64]`; False where a value is NaN."""
    squares = np.square(many - one)
    colour = np.sqrt(squares[:, :_COLOURS].mean(axis=1))
    contrast = np.sqrt(squares[:, _COLOURS:].mean(axis=1))
    found: NDArray[np.bool_] = (colour <= _COLOUR_LIMIT) & (contrast <= _CONTRAST_LIMIT)
    return found


def _join(
    positions: Sequence[RowPosition], images: NDArray[np.float32], classes: NDArray[np.int64], top: int
) -> list[RowGroup]:
    """Add each row to the first group whose first row is similar; other rows start the next of at most `top` groups."""
    firsts: list[int] = []
    similar: list[list[RowPosition]] = []
    first_images = np.empty((min(top, len(positions)), images.shape[1]), np.float32)
    first_classes = np.empty(len(first_images), np.int64)
    for index, position in enumerate(positions):
        count = len(firsts)
        fits = are_similar(images[index], first_images[:count]) & (first_classes[:count] == classes[index])
        if fits.any():
            similar[int(fits.argmax())].append(position)
        elif count < len(first_images):
            first_images[count], first_classes[count] = images[index], classes[index]
            firsts.append(index)
            similar.append([])
    return [RowGroup(positions[first], tuple(rows)) for first, rows in zip(firsts, similar, strict=True)]


def _describe_rows(
    results: Results, positions: Sequence[RowPosition], moved_to: str | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of the images `[n, 64]`, NaN without an image, and predicted classes `[n]`, -1 without a class."""
    reader = InputImages(results, moved_to, _SIDE)
    images = np.full((len(positions), _COLOURS + _CELLS * _CELLS), np.nan, np.float32)
    classes = np.full(len(positions), -1, np.int64)
    order = sorted(range(len(positions)), key=lambda index: (positions[index].shard, positions[index].row))
    for number, group in groupby(order, lambda index: positions[index].shard):
        indices = list(group)
        rows = [positions[index].row for index in indices]
        table = results.take(results.entries[number], rows, ["id", "prediction"])
        classes[indices] = np.asarray(table["prediction"].fill_null(-1))
        found = reader.read(results.entries[number], rows, table["id"].to_pylist(), [describe] * len(rows))
        for index, image in zip(indices, found, strict=True):
            if not isinstance(image, str):
                images[index] = image
    return images, classes
