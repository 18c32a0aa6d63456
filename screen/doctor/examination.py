"""Examine this machine for `oodscreen doctor`: hardware, software, speed, and the stage that bounds a run.

In: nothing, or a model and a shard. Out: an `Examination`, as text or JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from export.contract.reader import read_model
from screen.config import RunConfig
from screen.doctor.bottleneck import Bottleneck, measure_bottleneck
from screen.doctor.machine import Library, Machine, describe_machine
from screen.doctor.speed import PHOTO, Speed, measure_speed
from screen.engine.device.choice import choose_device
from screen.engine.device.cuda_driver import CudaCard
from screen.engine.device.provider import Device
from screen.files.paths import as_path, name_place

_GIB = 2**30


@dataclass(frozen=True)
class Examination:
    """Findings about this machine.

    Attributes:
        machine: software, GPUs and cores of the machine.
        device: the device of the passes.
        threads_from: source of the number of threads, in words.
        speed: speed of the device, and of decoding.
        bottleneck: stages of a run of the model, and the stage that bounds the run; None if no model was given.
    """

    machine: Machine
    device: Device
    threads_from: str
    speed: Speed
    bottleneck: Bottleneck | None

    def to_json(self) -> str:
        """The examination as one line of JSON."""
        machine = self.machine
        values: dict[str, Any] = {
            "versions": machine.versions,
            "built_for": machine.built_for,
            "gpus": [asdict(card) for card in machine.cards.cards],
            "gpu_problem": machine.cards.problem,
            "libraries": [asdict(library) for library in machine.libraries],
            "device": {"name": self.device.name, "note": self.device.note},
            "threads": {"count": self.device.threads, "from": self.threads_from},
            "speed": asdict(self.speed),
        }
        if self.bottleneck is not None:
            found = self.bottleneck
            concluded = {name: getattr(found, name) for name in ("rows_per_second", "bound_by", "advice")}
            values["run"] = {**asdict(found), **concluded}
        return json.dumps(values)

    def to_text(self) -> str:
        """The examination as lines of text."""
        machine, speed = self.machine, self.speed
        lines = [
            "versions   " + ", ".join(f"{name} {text}" for name, text in machine.versions.items()),
            "built for  " + ", ".join(machine.built_for),
            *(f"GPU        {_describe_card(card)}" for card in machine.cards.cards),
            *([f"GPU        {machine.cards.problem}"] if machine.cards.problem else []),
            *(f"CUDA       {_describe_library(library)}" for library in machine.libraries),
            f"device     {self.device.name}" + (f"; {self.device.note}" if self.device.note else ""),
            f"threads    {self.device.threads}, {self.threads_from}",
            f"precision  {speed.precision}, measured in a matrix product",
            f"speed      {speed.matrix_gflops:,.0f} GFLOP/s in a {speed.matrix_size} x {speed.matrix_size} matrix "
            f"product, {speed.convolution_gflops:,.0f} GFLOP/s in a 3 x 3 convolution, on {self.device.name}, "
            f"{self.device.workers} session run(s) at a time",
        ]
        if speed.copy_gb_per_second is not None:
            lines.append(f"copy       {speed.copy_gb_per_second:.1f} GB/s from the host to {self.device.name}")
        lines.append(
            f"decoding   {speed.decoded_per_second:,.0f} JPEG images of {PHOTO[1]} x {PHOTO[0]} pixels per second"
        )
        if self.bottleneck is not None:
            lines += [f"run of     {self.bottleneck.model}", *self.bottleneck.to_lines()]
        return "\n".join(lines)


def examine(model: str | None = None, source: str | None = None, config: RunConfig | None = None) -> Examination:
    """Examine this machine; the measurements take a few seconds.

    Args:
        model: path of an exported model, for which a run is measured; None for no model.
        source: a shard, a folder of shards or a glob, whose first rows are measured; None for made-up images.
        config: options of the device, of the passes and of the rows; None for the defaults.

    Raises:
        Refused: the model, the shard, the device or an option cannot be used.
        OutOfMemory: two rows do not fit into memory.
    """
    config = config or RunConfig()
    exported = None if model is None else read_model(as_path(model))
    device = choose_device(config.device, config.threads, precision=config.settings().precision, memory=config.memory)
    bottleneck = None
    if model is not None and exported is not None:
        bottleneck = measure_bottleneck(name_place(model), exported, source, config, device)
    machine = describe_machine()
    return Examination(
        machine=machine,
        device=device,
        threads_from="from --threads"
        if config.threads
        else f"one for each core that affinity, CPU quota and OMP_NUM_THREADS allow (cores of the machine: "
        f"{machine.cores_of_machine})",
        speed=measure_speed(device, config.threads),
        bottleneck=bottleneck,
    )


def _describe_card(card: CudaCard) -> str:
    free = "" if card.free_bytes is None else f" ({card.free_bytes / _GIB:.1f} GiB free)"
    major, minor = card.compute_capability
    driver = f"driver {card.driver}, which supports" if card.driver else "the driver supports"
    return (
        f"{card.index}: {card.name}, {card.total_bytes / _GIB:.1f} GiB{free}, compute capability {major}.{minor}, "
        f"{driver} CUDA {card.cuda}"
    )


def _describe_library(library: Library) -> str:
    state = f"loads{library.found and ', version '}{library.found}" if library.loads else "is missing"
    return f"{library.name} {state}{library.wanted and ', onnxruntime requires '}{library.wanted}"
