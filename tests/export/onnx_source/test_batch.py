"""Making the batch axis of an ONNX file variable."""

from __future__ import annotations

import pytest

from export.onnx_source.batch import _axis_of_rows


@pytest.mark.parametrize(
    ("outer", "after", "axis"),
    [
        (1, (1, 25088), 0),
        (1, (1, 2, 17, 16), 0),
        (17, (17, 1, 3, 32), 1),  # 17 tokens, one image, and queries, keys and values
        (17, (17, 2, 16), 1),  # one image with 2 heads
        (17, (17, 32), 0),  # tokens and one image on one axis, before the features
        (17, (17, 4, 16), 1),  # two images with 2 heads
        (17, (34, 32), 0),  # tokens and two images on one axis
        (17, (17, 2, 32), 1),
    ],
)
def test_the_axis_of_the_rows_is_found_in_a_reshaped_value(outer: int, after: tuple[int, ...], axis: int) -> None:
    assert _axis_of_rows(outer, after) == axis
