"""The public Python API: `import oodscreen`.

In: the packages `export` and `screen`. Out: the functions behind the commands, `Screener`, and the errors. Each name is
imported on first use: `import oodscreen` loads neither onnxruntime nor TensorFlow. Type checkers and editors read the
types of the names from `oodscreen-stubs/__init__.pyi`.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "export.errors": (
        "CalibrationRefused",
        "ContractRefused",
        "EngineFailed",
        "ExitCode",
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
        "ShardRefused",
        "Terminated",
        "VerificationFailed",
        "WriteFailed",
    ),
    "export.exporter": ("ExportNotice",),
    "export.source.load": ("load_keras",),
    "screen.api.exporting": ("export_file", "export_model"),
    "screen.api.packing": ("pack",),
    "screen.api.reviewing": ("evaluate", "labels", "queue", "report"),
    "screen.api.screening": ("calibrate", "run"),
    "screen.run.screener": ("Screener",),
}
"""Public names, grouped by the module that defines them."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(["__version__", *_MODULES])


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__version__":
        from screen.version import own_version

        return own_version()
    if name not in _MODULES:
        raise AttributeError(f"module 'oodscreen' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
