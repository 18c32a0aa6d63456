"""Screen image data sets with Monte Carlo dropout: `from screen import Screener`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from screen.run.screener import Screener

__all__ = ["Screener"]


def __getattr__(name: str) -> Any:
    """Import `Screener` on first use, so that the command line's help does not load onnxruntime."""
    if name == "Screener":
        from screen.run.screener import Screener

        return Screener
    raise AttributeError(f"module 'screen' has no attribute {name!r}")
