from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from screen.columns import COLUMNS, FEATURE_DISTANCE
from screen.review.report.aggregate import NEEDED, Aggregate, GrowingHistogram
from screen.review.results import RowPosition

VALUES = st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=60)


def counted(values: list[float], flag: list[bool], cut: int) -> GrowingHistogram:
    histogram = GrowingHistogram()
    for part in (slice(0, cut), slice(cut, None)):
        histogram.add(np.array(values[part]), np.array(flag[part], np.bool_))
    return histogram


@given(VALUES, st.randoms(use_true_random=False), st.integers(0, 60))
def test_a_histogram_does_not_depend_on_the_order_and_batches_of_values(
    values: list[float], random: object, cut: int
) -> None:
    flag = [value > 0 for value in values]
    edges, rows, flagged = counted(values, flag, cut).bins()
    assert 1 <= len(rows) <= 96
    places = np.searchsorted(edges, values, side="right") - 1
    assert np.array_equal(rows, np.bincount(places, minlength=len(rows)))
    assert rows.sum() == len(values)
    assert flagged.sum() == sum(flag)
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    again = counted([values[one] for one in order], [flag[one] for one in order], cut).bins()
    assert all(np.array_equal(one, other) for one, other in zip((edges, rows, flagged), again, strict=True))


def test_values_that_are_not_finite_are_in_no_bin() -> None:
    histogram = counted([np.nan, np.inf, 1.0], [True, True, True], 1)
    assert histogram.bins()[1].tolist() == [1]


def test_bins_are_coarse_enough_for_a_limit_far_from_all_values() -> None:
    histogram = counted([1.0, 1.0000001], [False, True], 1)
    edges, rows, _ = histogram.bins(also=[100.0])
    assert (len(rows), rows[0]) == (1, 2)
    assert edges[1] - edges[0] == 2


def table(**columns: list[object]) -> pa.Table:
    """Result rows with the given columns; other columns are null, and all rows are readable by default."""
    rows = len(next(iter(columns.values())))
    kinds = {column.name: column.type for column in (*COLUMNS, FEATURE_DISTANCE)}
    filled = {"status": ["ok"] * rows, "flag": [False] * rows, **columns}
    return pa.table({name: pa.array(filled.get(name, [None] * rows), kinds[name]) for name in NEEDED})


def test_flagged_rows_come_first_then_high_scores_then_the_order_of_the_results() -> None:
    aggregate = Aggregate(4, None)
    aggregate.add(0, 0, table(entropy=[0.1, 0.9, 0.5], flag=[False, False, True]))
    aggregate.add(0, 3, table(entropy=[0.5], flag=[True]))
    aggregate.add(1, 0, table(entropy=[0.6, 0.9], flag=[True, False]))
    assert aggregate.order == "entropy"
    assert aggregate.top_rows() == [RowPosition(1, 0), RowPosition(0, 2), RowPosition(0, 3), RowPosition(0, 1)]


def test_the_score_of_the_queue_orders_unless_it_is_null() -> None:
    low = Aggregate(2, None, "confidence", high=False)
    low.add(0, 0, table(confidence=[0.9, 0.2, 0.4], entropy=[9.0, 0.0, 0.0], flag=[True, True, True]))
    assert (low.order, low.high, low.top_rows()) == ("confidence", False, [RowPosition(0, 1), RowPosition(0, 2)])
    null = Aggregate(1, None, "confidence", high=False)
    null.add(0, 0, table(entropy=[0.1, 0.9], flag=[True, True]))
    assert (null.order, null.high, null.top_rows()) == ("entropy", True, [RowPosition(0, 1)])


def test_rows_that_could_not_be_scored_count_only_as_rows() -> None:
    aggregate = Aggregate(10, 0.5)
    aggregate.add(
        0, 0, table(ood_score=[None, 3.0], p_value=[None, 0.5], flag=[True, True], status=["decode_failed", "ok"])
    )
    assert (aggregate.rows, aggregate.readable, aggregate.flagged, aggregate.all_flagged, aggregate.by_calibration) == (
        2,
        1,
        1,
        2,
        1,
    )
    assert aggregate.top_rows() == [RowPosition(0, 1)]
