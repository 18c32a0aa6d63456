"""Parse the device that `--device` names.

In: `auto`, `cpu`, `cuda` or `cuda:N`. Out: a `DeviceRequest`. Whether the machine has this device is tested later, by
the engine (`screen.engine.device.choice`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.errors import OptionRefused


@dataclass(frozen=True)
class DeviceRequest:
    """Device that `--device` names.

    Attributes:
        name: `auto` (CUDA if CUDA works on this machine, else the CPU), `cpu` or `cuda`.
        index: number of the GPU, in CUDA's order; 0 if no number was given.
    """

    name: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> DeviceRequest:
        """Parse the value of `--device`.

        Raises:
            OptionRefused: the text has none of the four forms.
        """
        match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", text, re.ASCII)
        if match is None:
            raise OptionRefused(
                f"--device is {text!r}.",
                wanted="auto, cpu, cuda (the first GPU) or cuda:N (GPU number N, counted from 0)",
                next_step="give one of these values; `oodscreen doctor` describes the devices of this machine",
            )
        return cls(match[1] or "cuda", int(match[2] or 0))
