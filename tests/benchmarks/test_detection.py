"""The scores and combinations that the detection benchmark measures, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.detection import COMBINED, SCORES, combine, name_combination
from benchmarks.sets import CHOOSING, REPORTED
from screen.decide.detectors import CombinedScore, Detector
from screen.engine.distance import DISTANCES
from tests import generated


def test_names_of_combinations_are_distinct_and_short() -> None:
    names = [name_combination(one) for one in COMBINED]
    assert len(set(names)) == len(names)
    assert name_combination(("entropy", *DISTANCES)) == "entropy, distances"
    assert name_combination(("entropy", DISTANCES[0])) == f"entropy, {DISTANCES[0]}"


def test_a_combination_is_that_of_a_calibration_and_a_single_score_is_oriented() -> None:
    rng = np.random.default_rng(0)
    columns = {one: {name: rng.normal(size=40) for name in SCORES} for one in ("valid", "test")}
    fitting = np.arange(20)
    names = ("entropy", "confidence")
    expected = CombinedScore(tuple(Detector.fit(name, columns["valid"][name][fitting]) for name in names))
    assert combine(names, columns, fitting)["test"] == pytest.approx(expected.score(columns["test"]))
    assert combine(("confidence",), columns, fitting)["test"] == pytest.approx(-columns["test"]["confidence"])


def test_the_tables_show_only_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["default", *SCORES, *map(name_combination, COMBINED)]
    one: Mapping[str, Any] = {"auroc": [0.875, 0.0], "fpr95": [0.125, 0.25], "flagged": [0.5, 0.0]}
    result = {
        "scores": {name: dict.fromkeys((*REPORTED, *CHOOSING), one) for name in names},
        "flagged": {name: [0.5, 0.5] for name in (*REPORTED, *CHOOSING)},
        "known_flagged": [0.02],
        "reported": list(REPORTED),
        "choosing": list(CHOOSING),
        "seeds": 1,
        "epochs": 6,
        "passes": 100,
        "review_rate": 0.02,
    }
    monkeypatch.setattr(generated, "_result", lambda name: result)
    cells = " | ".join(["87.50 / 12.5"] * len(REPORTED))
    assert f"| **`ood_score`: entropy, distances** | {cells} |" in generated.detection_table()
    spreads = " | ".join(["12.5 ± 25.0"] * len(REPORTED))
    assert f"| entropy, skewness, distances | {spreads} | 12.5 |" in generated.moments_table()
    assert "| flipped | " + " | ".join(["87.50 / 12.5"] * (len(DISTANCES) + 2)) + " | 50 % |" in generated.held_table()
