"""Make a function public: its options become keywords, and its errors are explained as those of a command.

In: a function whose options are dataclasses. Out: a function for Python programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, TypeVar

from export.keywords import with_keywords
from screen.files.failures import explained_errors
from screen.files.temporary import usable_temporary_folder

Result = TypeVar("Result")


def public(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function like the given one, but with keywords in place of dataclasses, and with explained errors.

    Args:
        function: a function with parameters whose types are dataclasses of options.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Result:
        given = dict(values)
        for one in values.values():
            given |= vars(one) if is_dataclass(one) else {}
        with explained_errors(), usable_temporary_folder(given):
            return function(*arguments, **values)

    return with_keywords(call)
