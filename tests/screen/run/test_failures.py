from __future__ import annotations

import numpy as np
import pytest

from export.contract.metadata import Task
from screen.columns import STATUSES
from screen.engine.statistics import PassSummary
from screen.review.ranking import _HAVE_AN_IMAGE
from screen.run.failures import find_failures


def summary(*means: list[float], std: float = 0.0) -> PassSummary:
    mean = np.array(means)
    spread = np.full(mean.shape, std)
    return PassSummary(np.full(len(mean), 10, np.int32), mean, spread, spread.max(axis=1))


def test_rows_of_probabilities_do_not_fail() -> None:
    assert find_failures(summary([0.2, 0.8], [1.0, 0.0]), "classes") == {}


def test_each_failed_row_has_a_status_and_its_values_in_the_reason() -> None:
    found = find_failures(summary([0.2, 0.8], [np.nan, 0.5], [26.9, -3.5], [np.inf, 0], [0.7, 0.7]), "classes")
    assert {row: status for row, (status, _) in found.items()} == {
        1: "non_finite",
        2: "not_probabilities",
        3: "non_finite",
        4: "not_probabilities",
    }
    assert "from -3.5 to 26.9, sum 23.4" in found[2][1]


@pytest.mark.parametrize(
    ("task", "rows"), [("classes", [0, 1, 2]), ("labels", [1, 2]), ("binary", [1, 2]), ("values", [2])]
)
def test_what_fails_depends_on_the_meaning_of_the_outputs(task: Task, rows: list[int]) -> None:
    width = slice(0, 1) if task == "binary" else slice(None)
    means = [[0.7, 0.7], [-1.5, 2.5], [np.nan, 0.5]]
    assert list(find_failures(summary(*(mean[width] for mean in means)), task)) == rows


def test_a_spread_that_no_probabilities_have_fails() -> None:
    assert list(find_failures(summary([0.5, 0.5], std=4.5), "classes")) == [0]


def test_every_status_is_described_and_its_image_can_be_shown() -> None:
    statuses = {status for status, _ in find_failures(summary([np.nan], [5.0]), "binary").values()}
    assert statuses == {"non_finite", "not_probabilities"}
    assert statuses <= STATUSES.keys() & set(_HAVE_AN_IMAGE)
