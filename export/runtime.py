"""The only import of onnxruntime, with telemetry disabled by default.

In: the environment variable `ORT_DISABLE_TELEMETRY`. Out: the module `onnxruntime`, loaded at the first access
(PEP 562): a run whose shards are all finished does not load it. From version 1.29 on, official builds of onnxruntime
for Linux and macOS send telemetry to Microsoft by default: session creation, model file names and hashes, and run
statistics. These builds store an identifier and unsent events below `~/.cache` (see onnxruntime's Privacy.md).
onnxruntime reads the variable once, during its import; if a program imports onnxruntime before this module, this module
has no effect on the telemetry. To enable telemetry, set `ORT_DISABLE_TELEMETRY=0`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OPT_OUT", "onnxruntime"]

OPT_OUT = "ORT_DISABLE_TELEMETRY"
"""Environment variable that disables onnxruntime's telemetry when it is 1."""

if not os.environ.get(OPT_OUT):  # onnxruntime treats an empty value as "not disabled"
    os.environ[OPT_OUT] = "1"


def __getattr__(name: str) -> Any:
    if name == "onnxruntime":
        import onnxruntime

        globals()[name] = onnxruntime  # so that later uses, some in the loop over batches, are fast
        return onnxruntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
