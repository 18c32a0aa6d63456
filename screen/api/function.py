"""What makes a function public: keywords in place of options, and errors that are explained as those of a command.

In: a function with dataclasses of options. Out: a function for Python programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from export.keywords import with_keywords
from screen.files.failures import explained_errors

Result = TypeVar("Result")


def public(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function like the given one, but with keywords in place of dataclasses, and with explained errors.

    Args:
        function: the function.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Result:
        with explained_errors():
            return function(*arguments, **values)

    return with_keywords(call)
