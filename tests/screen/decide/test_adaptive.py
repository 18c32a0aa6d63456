from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import OptionRefused
from screen.decide.adaptive import entropy_limits, refuse_early_exit
from screen.decide.detectors import CombinedScore, Detector
from screen.decide.rules.rule import parse_rule
from screen.engine.distance import FeatureDistances
from tests.export.contract.test_metadata import CONTRACT
from tests.screen.decide.test_calibration import make_calibration


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("entropy > 0.5", 0.5),
        ("0.5 <= entropy", 0.5),
        ("entropy > 0.5 or entropy >= 0.3", 0.3),
        ("entropy > 0.5 and (entropy > 0.7 or entropy > 0.6)", 0.6),
        ("entropy < 0.5", None),
        ("not entropy < 0.5", None),
        ("entropy > confidence", None),
        ("entropy > 0.5 or confidence < 0.5", None),
        ("mutual_information > 0.1", None),
    ],
)
def test_a_rule_settles_by_the_entropy_or_is_refused(text: str, limit: float | None) -> None:
    rule = parse_rule(text, CONTRACT)
    assert rule.entropy_limit == limit
    if limit is None:
        with pytest.raises(OptionRefused, match="--adaptive is not possible: the flag rule"):
            refuse_early_exit(CONTRACT, rule, ())
    else:
        refuse_early_exit(CONTRACT, rule, ())
        assert entropy_limits(rule, None, 3, FeatureDistances()).tolist() == [limit] * 3


def test_other_detectors_and_other_outputs_are_refused() -> None:
    rule = parse_rule("entropy > 0.5", CONTRACT)
    with pytest.raises(OptionRefused, match="the calibration combines entropy \\+ skewness"):
        refuse_early_exit(CONTRACT, None, ("entropy", "skewness"))
    for contract in (replace(CONTRACT, output_kind="regression"), replace(CONTRACT, output_kind="sigmoid")):
        with pytest.raises(OptionRefused, match="no predictive entropy over classes"):
            refuse_early_exit(contract, rule, ())
    refuse_early_exit(replace(CONTRACT, output_kind="logits", classes=1), rule, ())


@given(st.integers(0, 100), st.floats(0.01, 0.5))
def test_the_limit_of_a_row_is_where_its_flag_turns(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    detectors = Detector.fit("entropy", rng.exponential(size=200)), Detector.fit("layout_distance", rng.random(200))
    combined_score = CombinedScore(detectors)
    known = {"entropy": rng.exponential(size=300), "layout_distance": rng.random(300)}
    calibration_scores = np.sort(combined_score.score(known))
    calibration = replace(
        make_calibration(), combined_score=combined_score, calibration_scores=calibration_scores, review_rate=rate
    )
    distance = (rng.random(50) * 1.3).astype(np.float32).astype(np.float64)
    distances = FeatureDistances(layout_distance=distance)
    limits = entropy_limits(None, calibration, 50, distances)
    for step, flagged in ((1e-6, True), (-1e-6, False)):
        entropy = np.where(np.isinf(limits), 0.0, limits) + step
        asked = (limits > 0) & np.isfinite(limits)
        score = combined_score.score({"entropy": entropy, "layout_distance": distance})
        assert np.all((calibration.p_values(score) <= rate)[asked] == flagged)
    sure = combined_score.score({"entropy": np.zeros(50), "layout_distance": distance})
    assert np.all((calibration.p_values(sure) <= rate)[np.isneginf(limits)])
    both = entropy_limits(parse_rule("entropy > 0.4", CONTRACT), calibration, 50, distances)
    np.testing.assert_array_equal(both, np.minimum(limits, 0.4))


def test_a_calibration_of_the_distance_alone_settles_every_row_at_once() -> None:
    detector = Detector.fit("layout_distance", np.arange(100.0))
    calibration_scores = np.sort(detector.surprisal(np.arange(100.0) + 0.5))
    calibration = replace(
        make_calibration(), combined_score=CombinedScore((detector,)), calibration_scores=calibration_scores
    )
    distances = FeatureDistances(layout_distance=np.array([5.0, 500.0]))
    assert entropy_limits(None, calibration, 2, distances).tolist() == [math.inf, -math.inf]
