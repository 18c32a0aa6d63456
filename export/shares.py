"""Shares in options: `2%` and `0.02` are the same share in every option.

In: the text of an option. Out: a number from 0 to 1, or an error that states the accepted forms.
"""

from __future__ import annotations

import re

from export.errors import OptionRefused

_SHARE = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)", re.ASCII)


def parse_share(option: str, text: str, *, also: str = "") -> float:
    """A share from a percentage such as `2%` or `0.5 %`, or from a number below 1 such as `0.02`.

    Args:
        option: name of the option, for errors.
        text: value of the option.
        also: other values that the option accepts, as the start of a text for errors, with a comma at the end.

    Raises:
        OptionRefused: the text has neither form, is above 100%, or is a number of 1 or more without `%`, which can be
            meant as a percentage or as a share.
    """
    match = _SHARE.fullmatch(text.strip())
    wanted = f"{also}a percentage such as 2%, or a share below 1 such as 0.02"
    if match is None:
        raise OptionRefused(f"{option} is {text!r}.", wanted=wanted, next_step=f"give a percentage: {option} 2%")
    number = float(match[1])
    if match[2] and number > 100:
        raise OptionRefused(f"{option} is {text!r}.", wanted="at most 100%", next_step="give a smaller percentage")
    if not match[2] and number >= 1:
        meant = f"{match[1]}% if you mean {match[1]} percent" + (", or 100% if you mean all" if number == 1 else "")
        raise OptionRefused(
            f"{option} is {text!r}, without a percent sign.", wanted=wanted, next_step=f"give {option} {meant}"
        )
    return number / 100 if match[2] else number
