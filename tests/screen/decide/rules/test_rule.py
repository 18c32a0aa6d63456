from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from export.errors import OptionRefused
from screen.decide.rules.rule import Reason, default_rule, parse_rule
from screen.decide.rules.text import find_limits
from tests.export.contract.test_metadata import CONTRACT

SCORES = {
    "entropy": np.array([0.1, 0.6, 0.6, 0.1], np.float32),
    "prediction_std": np.array([0.0, 0.0, 0.3, 0.3], np.float32),
    "energy": np.array([-3.0, -1.0, 2.0, 5.0], np.float32),
    "prediction": np.array([0, 1, 2, 3], np.int32),
}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("entropy > 0.5", [0, 1, 1, 0]),
        ("0.5 < entropy", [0, 1, 1, 0]),
        ("entropy>.5 or prediction_std>=2e-1", [0, 1, 1, 1]),
        ("entropy > 0.5 and prediction_std > 0.2", [0, 0, 1, 0]),
        ("not entropy > 0.5", [1, 0, 0, 1]),
        ("not (entropy > 0.5 or prediction_std > 0.2)", [1, 0, 0, 0]),
        ("entropy > 0.5 or prediction_std > 0.2 and energy > 4", [0, 1, 1, 1]),
        ("(entropy > 0.5 or prediction_std > 0.2) and energy > 4", [0, 0, 0, 1]),
        ("energy < -2", [1, 0, 0, 0]),
        ("prediction == 2", [0, 0, 1, 0]),
        ("prediction != 2", [1, 1, 0, 1]),
        ("entropy > prediction_std", [1, 1, 1, 0]),
    ],
)
def test_rules_say_what_they_read(text: str, flags: list[int]) -> None:
    assert parse_rule(text, CONTRACT).decide(SCORES).flag.astype(int).tolist() == flags


def test_the_reason_names_the_comparisons_that_held() -> None:
    decision = parse_rule("entropy > 0.5 or prediction_std > 0.2", CONTRACT).decide(SCORES)
    entropy = Reason("entropy > 0.5", "entropy 0.6 > 0.5")
    std = Reason("prediction_std > 0.2", "prediction_std 0.3 > 0.2")
    assert decision.reasons == [(), (entropy,), (entropy, std), (std,)]


def test_a_rule_that_holds_because_something_does_not_gives_itself_as_reason() -> None:
    assert parse_rule("not entropy > 0.5", CONTRACT).decide(SCORES).reasons[0] == (
        Reason("not entropy > 0.5", "not entropy > 0.5"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is incomplete"),
        ("entropy >", "is incomplete"),
        ("entropy", "has no comparison sign after 'entropy'"),
        ("entropy = 3", "unknown character"),
        ("entropy > 0.5 or", "is incomplete"),
        ("(entropy > 0.5", "no closing parenthesis"),
        ("entropy > 0.5)", "has an unexpected"),
        ("entropy > 0.5 prediction > 1", "has an unexpected 'prediction'"),
        ("entropie > 0.5", "'entropie' instead of a column"),
        ("mean > 0.5", "'mean' instead of a column"),
        ("ood_score > 3", "always null without a calibration"),
        ("largest_label_entropy > 3", "always null for this model"),
        ("1 > 0", "compares two numbers"),
        ("__import__('os').system('true') > 0", "unknown character"),
        ("entropy > 0.5; entropy", "unknown character"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionRefused, match=message) as refused:
        parse_rule(text, CONTRACT)
    assert "entropy > 0.5" in refused.value.next_step


def test_numbers_compare_as_readers_of_the_results_compare_them() -> None:
    """0.3 as float32 is above 0.3."""
    scores = {"variation_ratio": np.array([0.3], np.float32)}
    assert parse_rule("variation_ratio > 0.3", CONTRACT).decide(scores).flag.tolist() == [True]
    assert parse_rule("variation_ratio == 0.3", CONTRACT).decide(scores).flag.tolist() == [False]


def test_a_rule_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(OptionRefused, match="nested too deeply"):
        parse_rule("(" * 9000 + "entropy > 1" + ")" * 9000, CONTRACT)


def test_defaults_are_a_quarter_of_the_largest_entropy() -> None:
    assert default_rule(CONTRACT, 100) == f"entropy > {math.log(4) / 4:.6g}"
    for kind in ("sigmoid", "logits"):
        assert default_rule(replace(CONTRACT, output_kind=kind, classes=1), 100) == f"entropy > {math.log(2) / 4:.6g}"
    several = replace(CONTRACT, output_kind="sigmoid")
    assert default_rule(several, 100) == f"largest_label_entropy > {math.log(2) / 4:.6g}"
    for contract in (CONTRACT, several):
        assert parse_rule(default_rule(contract, 100), contract).columns


def test_a_regression_needs_a_rule_of_its_own() -> None:
    regression = replace(CONTRACT, output_kind="regression")
    with pytest.raises(OptionRefused, match="regression"):
        default_rule(regression, 100)
    with pytest.raises(OptionRefused, match="always null"):
        parse_rule("entropy > 0.5", regression)


def test_the_limits_of_a_rule_are_its_numbers_by_column() -> None:
    rule = "p_value <= 0.02 or (not entropy > .5 and 3e-1 < largest_std and energy>-4.5 and entropy > expected_entropy)"
    assert find_limits(rule) == (("p_value", 0.02), ("entropy", 0.5), ("largest_std", 0.3), ("energy", -4.5))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("confidence < 90%", "confidence < 0.9"),
        ("12.5 % <= variation_ratio", "0.125 <= variation_ratio"),
        ("confidence<7% and entropy > 0.5", "confidence<0.07 and entropy > 0.5"),
    ],
)
def test_a_percentage_in_a_rule_is_the_number(text: str, same: str) -> None:
    assert parse_rule(text, CONTRACT) == parse_rule(same, CONTRACT)
    assert parse_rule(text, CONTRACT).text == same


def test_a_percentage_of_a_column_without_a_maximum_of_1_is_refused() -> None:
    with pytest.raises(OptionRefused, match="compares entropy with a percentage") as refused:
        parse_rule("entropy > 25%", CONTRACT)
    assert "confidence" in refused.value.wanted
