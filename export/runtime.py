"""onnxruntime, as everything here imports it: told to send nothing before it begins.

From 1.29 on its official builds report to their maker from Linux and macOS too: when sessions are made, of which
models (file names and hashes among it), and how they run; an identifier and what could not be sent are kept below
`~/.cache` (its Privacy.md). The variable is read once, when the library is loaded: where a program loaded it before,
that program has decided. Who sets it to 0 is not overruled.
"""

from __future__ import annotations

import os

OPT_OUT = "ORT_DISABLE_TELEMETRY"

if not os.environ.get(OPT_OUT):  # empty, it would leave it on
    os.environ[OPT_OUT] = "1"

import onnxruntime  # noqa: E402

__all__ = ["OPT_OUT", "onnxruntime"]
