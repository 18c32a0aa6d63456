"""The text of a flag rule: percentages, thresholds, and the direction in which a rule flags.

In: the text of a rule. Out: the text without percentages; the thresholds and directions, found without parsing the
rule.
"""

from __future__ import annotations

import re
from decimal import Decimal

from export.errors import OptionRefused
from screen.columns import SCORES

_WORD, _SIGN, _NUMBER = r"\b([A-Za-z_]\w*)", r"(?:[><]=?|==|!=)", r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

_PERCENTAGE = re.compile(rf"{_WORD}(\s*{_SIGN}\s*)({_NUMBER})\s*%|({_NUMBER})\s*%(\s*{_SIGN}\s*){_WORD}")

_SHARES = tuple(column.name for column in SCORES if column.range == "0 to 1")
"""Columns whose values are shares, from 0 to 1."""


def write_out_percentages(text: str) -> str:
    """The rule with a number in place of each percentage: `confidence < 90%` becomes `confidence < 0.9`.

    Raises:
        OptionRefused: a percentage is compared with a column whose values are not shares.
    """

    def write_out(found: re.Match[str]) -> str:
        column, sign, number, first, other_sign, other = found.groups()
        if (column or other) not in _SHARES:
            raise OptionRefused(
                f"The flag rule {text!r} compares {column or other} with a percentage.",
                wanted=f"a percentage only in comparisons with columns from 0 to 1: {', '.join(_SHARES)}",
                next_step=f"give a number in the unit of {column or other}",
            )
        share = f"{Decimal(number or first) / 100:f}"
        return f"{column}{sign}{share}" if column else f"{share}{other_sign}{other}"

    return _PERCENTAGE.sub(write_out, text)


def find_limits(text: str) -> tuple[tuple[str, float], ...]:
    """Pairs of a column and a number that are compared in a rule, without repetition; used to draw thresholds in plots.

    Args:
        text: a valid rule of the model.
    """
    found = re.findall(rf"{_WORD}\s*{_SIGN}\s*({_NUMBER})|({_NUMBER})\s*{_SIGN}\s*{_WORD}", text)
    pairs = [(column or other, float(number or its)) for column, number, its, other in found]
    return tuple(dict.fromkeys(pairs))


def flags_high(text: str, column: str) -> bool | None:
    """Whether a rule flags high values of a column; None if the rule also flags low values.

    The result is also None if the rule contains `not` or does not compare the column.

    Args:
        text: a valid rule of the model.
        column: name of the column.
    """
    if re.search(r"\bnot\b", text):
        return None
    name = rf"\b{re.escape(column)}\b"
    after = re.findall(rf"{name}\s*([><])", text)
    before = re.findall(rf"([><])=?\s*{name}", text)
    sides = {sign == ">" for sign in after} | {sign == "<" for sign in before}
    return sides.pop() if len(sides) == 1 else None
