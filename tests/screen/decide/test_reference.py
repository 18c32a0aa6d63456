from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from screen.decide.reference import MIN_REFERENCE_ROWS, REFERENCE_NUMBERS, REFERENCE_ROWS, ReferenceSet

DIGESTS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60)


@settings(deadline=None)
@given(DIGESTS, st.integers(1, 20), st.sampled_from([1.0, 1 / 3]))
def test_which_rows_stay_depends_on_neither_order_nor_batches(digests: list[int], size: int, share: float) -> None:
    rows = np.array(digests, np.uint64)
    features = rows.astype(np.float32)[:, np.newaxis]
    whole, cut = ReferenceSet(1), ReferenceSet(1)
    whole.add(rows, features, -features)
    backwards, its_features = rows[::-1], features[::-1]
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        cut.add(backwards[part], its_features[part], -its_features[part])
    for one, other in zip(whole.close(share), cut.close(share), strict=True):
        np.testing.assert_array_equal(one, other)
    kept, its_features, descriptors = whole.close(share)
    assert len(kept) == int(len(set(digests)) * share)
    np.testing.assert_array_equal(its_features[:, 0], kept.astype(np.float32))
    np.testing.assert_array_equal(descriptors, -its_features)
    assert sorted(whole.all_seen().tolist()) == sorted(digests)


def test_a_reference_set_is_no_larger_than_its_limits() -> None:
    rows = np.arange(REFERENCE_ROWS + 5, dtype=np.uint64)
    for features, most in (
        (1, REFERENCE_ROWS),
        (2000, REFERENCE_NUMBERS // 2000),
        (REFERENCE_NUMBERS, MIN_REFERENCE_ROWS),
    ):
        reference = ReferenceSet(features)
        reference.add(rows, *np.zeros((2, len(rows), 1), np.float32))
        np.testing.assert_array_equal(reference.close()[0], rows[:most])


def test_a_reference_set_without_rows_is_empty() -> None:
    digests, features, descriptors = ReferenceSet(576).close()
    assert len(digests) == len(features) == len(descriptors) == len(ReferenceSet(576).all_seen()) == 0
