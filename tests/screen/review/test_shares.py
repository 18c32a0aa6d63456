from __future__ import annotations

import pytest

from screen.review.shares import wilson_interval


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    for finds, rows, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(finds, rows) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
