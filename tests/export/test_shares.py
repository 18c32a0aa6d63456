from __future__ import annotations

import pytest

from export.config.values import parse_rates
from export.errors import OptionRefused
from export.shares import parse_share


@pytest.mark.parametrize(
    ("text", "share"),
    [("0.02", 0.02), ("2%", 0.02), ("0.5 %", 0.005), (" 2 % ", 0.02), (".5%", 0.005), ("1e-3", 1e-3), ("100%", 1.0),
     ("0", 0.0), ("0%", 0.0)],
)  # fmt: skip
def test_a_share_is_a_percentage_or_a_number_below_1(text: str, share: float) -> None:
    assert parse_share("--review-rate", text) == share


@pytest.mark.parametrize("text", ["", "two", "2 percent", "%", "%2", "1.2.3", "2%%", "nan", "-2%", "0,5%", "\u0662%"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--review-rate is") as refused:
        parse_share("--review-rate", text)
    assert refused.value.wanted == "a percentage such as 2%, or a share below 1 such as 0.02"


@pytest.mark.parametrize(
    ("text", "meant"), [("2", "2% if you mean 2 percent"), ("1", "1% if you mean 1 percent, or 100% if you mean all")]
)
def test_a_number_without_a_percent_sign_that_could_be_a_percentage_is_refused(text: str, meant: str) -> None:
    with pytest.raises(OptionRefused, match="without a percent sign") as refused:
        parse_share("--review-rate", text)
    assert refused.value.next_step == f"give --review-rate {meant}"


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--review-rate is '101%'"):
        parse_share("--review-rate", "101%")


def test_dropout_rates_may_be_percentages() -> None:
    assert parse_rates(["30%", "block*=5 %", "top=1/4"]) == {"*": 0.3, "block*": 0.05, "top": 0.25}
