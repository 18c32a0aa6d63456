"""PassSettings: the settings that, together with the model, determine the passes of a row.

In: options, or a calibration. Out: a frozen dataclass, also as JSON values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from export.errors import OptionRefused

MaskMode = Literal["shared", "per-row", "none"]
Precision = Literal["float32", "tf32"]


@dataclass(frozen=True)
class PassSettings:
    """Settings that, together with the model, determine the passes of a row.

    Attributes:
        passes: number of passes, T.
        seed: seed for the dropout masks.
        masks: `shared`, `per-row`, or `none`: the network without dropout, for one pass.
        precision: `float32`, or `tf32`, with which a GPU rounds the mantissas of the factors of matrix products and
            convolutions to 10 bits.
    """

    passes: int = 100
    seed: int = 0
    masks: str = "shared"
    precision: str = "float32"

    def describe(self) -> str:
        """The settings in words: `100 passes, seed 0, shared masks`."""
        if self.masks == "none":
            words = "1 pass without dropout"
        else:
            words = f"{count_passes(self.passes)}, seed {self.seed}, {self.masks} masks"
        return words + (", precision tf32" if self.precision == "tf32" else "")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values.

        `precision` is left out if it is `float32`, as in the files of versions that had no other precision.
        """
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return values


def count_passes(passes: int, kind: str = "") -> str:
    """A number of passes in words, such as `1 pass`; with the kind `whole `, `100 whole passes`."""
    return f"{passes} {kind}pass{'' if passes == 1 else 'es'}"


def refuse_tf32(why: str) -> OptionRefused:
    """The error for the precision tf32 on a device that does not support tf32.

    Args:
        why: the reason why the device does not support tf32.
    """
    return OptionRefused(
        f"The precision is tf32 (by --precision or by the calibration), but {why}.",
        wanted="an NVIDIA GPU of compute capability 8.0 (Ampere) or higher, because other devices do not support tf32",
        next_step="use a GPU of this kind, or give --precision float32; if the calibration has tf32, run "
        "`oodscreen calibrate` again with --precision float32",
    )
