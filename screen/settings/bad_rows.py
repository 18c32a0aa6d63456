"""BadRowLimit: the number of rows that may fail before a run ends with exit code 3.

In: the text of `--max-bad-rows`, and counts. Out: whether the limit is exceeded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from export.shares import parse_share


@dataclass(frozen=True)
class BadRowLimit:
    """Maximum number or share of rows that could not be scored; above this limit a run ends with exit code 3.

    Attributes:
        number: number of rows, or percentage of the rows.
        is_percent: whether `number` is a percentage.
    """

    number: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str) -> BadRowLimit:
        """Parse a limit of the form `N` (rows), `P%`, or a share below 1 such as `0.02`.

        Raises:
            OptionRefused: the text has another form, or the percentage is above 100.
        """
        if re.fullmatch(r"\s*\d+\s*", text, re.ASCII):
            return cls(int(text), is_percent=False)
        parse_share("--max-bad-rows", text, also="a number of rows such as 100, ")
        number = Decimal(text.strip().removesuffix("%").rstrip())
        return cls(float(number if "%" in text else number * 100), is_percent=True)

    def is_exceeded(self, bad: int, rows: int) -> bool:
        """Whether the number of bad rows is above the limit."""
        return bad > (rows * self.number / 100 if self.is_percent else self.number)
