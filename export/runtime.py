"""onnxruntime with its telemetry off; the only module that imports it.

From 1.29 on, the official builds for Linux and macOS report to their maker by default: session creation, model file
names and hashes, and run times; an identifier and unsent reports are kept below `~/.cache` (its Privacy.md). The
library reads the variable once, when it is loaded, so it is set before. A program that loaded onnxruntime earlier, or
that sets the variable to 0, decides for itself.

`onnxruntime` is loaded when it is first used (PEP 562): a run that finds nothing to do never loads it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OPT_OUT", "onnxruntime"]

OPT_OUT = "ORT_DISABLE_TELEMETRY"

if not os.environ.get(OPT_OUT):  # an empty value would leave the telemetry on
    os.environ[OPT_OUT] = "1"


def __getattr__(name: str) -> Any:
    if name == "onnxruntime":
        import onnxruntime

        return onnxruntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
