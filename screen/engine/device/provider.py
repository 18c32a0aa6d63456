"""A device, and the options of its execution provider in onnxruntime.

In: a GPU's number, a precision and a memory limit. Out: a `Device` with provider options.

Three defaults of the CUDA provider are replaced. By default, TF32 is on. The search of convolution algorithms times all
algorithms for each new shape, and may choose another algorithm in the next run, so that results would depend on the
run. The memory arena grows to the whole GPU in powers of two. See the page "CUDA Execution Provider" of onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CPU_MEMORY = 512 * 2**20
"""Default of `--memory` on the CPU, in bytes."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Name of the execution provider of each kind of device."""


@dataclass(frozen=True)
class Device:
    """The device on which sessions run.

    Attributes:
        name: name of the device in onnxruntime's I/O binding, `cpu` or `cuda`.
        threads: number of CPU threads.
        note: notice that `auto` fell back to the CPU although the machine has a GPU, with the reason; "" otherwise.
        index: number of the GPU.
        precision: `float32` or `tf32`.
        memory: maximum size of the tensors of all concurrent session runs, in bytes.
    """

    name: str
    threads: int
    note: str = ""
    index: int = 0
    precision: str = "float32"
    memory: int = CPU_MEMORY

    @property
    def label(self) -> str:
        """Name of the device as in `--device`, such as `cuda:1`; `cuda` is the first GPU."""
        return f"{self.name}:{self.index}" if self.index else self.name

    @property
    def workers(self) -> int:
        """Number of concurrent session runs: one for each thread on the CPU, one on a GPU."""
        return max(1, self.threads) if self.name == "cpu" else 1

    @property
    def provider(self) -> str:
        """Name of the execution provider."""
        return PROVIDERS[self.name]

    @property
    def providers(self) -> list[Any]:
        """Execution providers of a session, with their options."""
        if self.name == "cpu":
            return [self.provider]
        return [(self.provider, _cuda_options(self.index, self.precision, self.memory)), PROVIDERS["cpu"]]


def _cuda_options(index: int, precision: str, memory: int) -> dict[str, str]:
    """Options of the CUDA execution provider.

    Args:
        index: number of the GPU.
        precision: `float32` or `tf32`.
        memory: maximum size of the arena of one session, in bytes. The arena holds the tensors and workspaces of
            the session's runs, but not the weights (`session.use_device_allocator_for_initializers`).
    """
    return {
        "device_id": str(index),
        "use_tf32": str(int(precision == "tf32")),
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": str(memory),
        "arena_extend_strategy": "kSameAsRequested",
    }
