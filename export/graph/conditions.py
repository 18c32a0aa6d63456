"""What an ONNX pass requires and ensures, checked on both sides: a graph that went wrong must not be written."""

from __future__ import annotations


class GraphPassError(AssertionError):
    """A pass met or left a graph that it must not: a bug in this package, never in a model."""


def require(condition: bool, what: str) -> None:
    """What must be so before a pass."""
    if not condition:
        raise GraphPassError(f"a graph pass requires {what}")


def ensure(condition: bool, what: str) -> None:
    """What must be so after it."""
    if not condition:
        raise GraphPassError(f"a graph pass did not ensure that {what}")
