"""Preconditions and postconditions of ONNX graph passes, so that an invalid graph is never written.

In: a condition and its description. Out: nothing, or `GraphPassError`.
"""

from __future__ import annotations


class GraphPassError(AssertionError):
    """A precondition or postcondition of a pass failed: a bug in this package, not in the model."""


def require(condition: bool, description: str) -> None:
    """Raise `GraphPassError` if a precondition does not hold."""
    if not condition:
        raise GraphPassError(f"a graph pass requires {description}")


def ensure(condition: bool, description: str) -> None:
    """Raise `GraphPassError` if a postcondition does not hold."""
    if not condition:
        raise GraphPassError(f"a graph pass did not ensure that {description}")
