"""Export models with Monte Carlo dropout to ONNX: `from export import export_model`.

In: a trained Keras model, from memory or from a file, or an ONNX file. Out: a verified ONNX file in which dropout stays
stochastic, with its contract in the metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.exporter import export_file, export_model
    from export.source.load import load_keras

__all__ = ["export_file", "export_model", "load_keras"]


def __getattr__(name: str) -> Any:
    """Import the exporter on first use, because reading a contract must not load it."""
    if name in __all__:
        import export.exporter
        import export.source.load

        return getattr(export.source.load if name == "load_keras" else export.exporter, name)
    raise AttributeError(f"module 'export' has no attribute {name!r}")
