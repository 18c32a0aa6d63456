"""BadRowLimit: the number of rows that may fail before a run ends with exit code 3.

In: the text of `--max-bad-rows`, and counts. Out: whether the limit is exceeded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.errors import OptionRefused


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
        """Parse a limit of the form `N` or `P%`.

        Raises:
            OptionRefused: the text has neither form, or the percentage is above 100.
        """
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
        limit = cls(float(match[1] or match[2]), match[2] is not None) if match else None
        if limit is None or (limit.is_percent and limit.number > 100):
            raise OptionRefused(
                f"--max-bad-rows is {text!r}.",
                wanted="a number of rows such as 100, or a percentage such as 0.5%, at most 100%",
                next_step="give a number or a percentage, or leave the option out for 1%",
            )
        return limit

    def is_exceeded(self, bad: int, rows: int) -> bool:
        """Whether the number of bad rows is above the limit."""
        return bad > (rows * self.number / 100 if self.is_percent else self.number)
