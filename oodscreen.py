"""The public Python API: `import oodscreen`.

In: the packages `export` and `screen`. Out: the functions behind the commands, `Screener`, and the errors. Each name is
imported on first use: `import oodscreen` loads neither onnxruntime nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.errors import (
        CalibrationRefused,
        ContractRefused,
        EngineFailed,
        ExitCode,
        InputChanged,
        InputRefused,
        Interrupted,
        ModelRefused,
        OodscreenError,
        OptionRefused,
        OutOfMemory,
        OutputLocked,
        OutputRefused,
        ReadFailed,
        Refused,
        ShardRefused,
        Terminated,
        VerificationFailed,
        WriteFailed,
    )
    from export.exporter import ExportNotice
    from export.source.load import load_keras
    from screen.api.exporting import export_file, export_model
    from screen.api.packing import pack
    from screen.api.reviewing import evaluate, labels, queue, report
    from screen.api.screening import calibrate, run
    from screen.run.screener import Screener

    __version__: str

__all__ = [
    "CalibrationRefused",
    "ContractRefused",
    "EngineFailed",
    "ExitCode",
    "ExportNotice",
    "InputChanged",
    "InputRefused",
    "Interrupted",
    "ModelRefused",
    "OodscreenError",
    "OptionRefused",
    "OutOfMemory",
    "OutputLocked",
    "OutputRefused",
    "ReadFailed",
    "Refused",
    "Screener",
    "ShardRefused",
    "Terminated",
    "VerificationFailed",
    "WriteFailed",
    "__version__",
    "calibrate",
    "evaluate",
    "export_file",
    "export_model",
    "labels",
    "load_keras",
    "pack",
    "queue",
    "report",
    "run",
]

_MODULES = {
    "ExportNotice": "export.exporter",
    "Screener": "screen.run.screener",
    "calibrate": "screen.api.screening",
    "evaluate": "screen.api.reviewing",
    "export_file": "screen.api.exporting",
    "export_model": "screen.api.exporting",
    "labels": "screen.api.reviewing",
    "load_keras": "export.source.load",
    "pack": "screen.api.packing",
    "queue": "screen.api.reviewing",
    "report": "screen.api.reviewing",
    "run": "screen.api.screening",
}
"""Modules of the names that are not errors."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'oodscreen' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("oodscreen")
    return getattr(importlib.import_module(_MODULES.get(name, "export.errors")), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
