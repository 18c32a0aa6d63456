"""Choose the device for `--device`, and test whether it works.

In: the options of a run. Out: a `Device`, or an `OptionRefused` with the reason.

When CUDA does not load, onnxruntime falls back to the CPU without an error; only the session's list of execution
providers differs. A GPU is therefore chosen only after a session has run on it.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from export import runtime
from export.errors import EngineFailed, OptionRefused
from screen.cores import usable_cores
from screen.device import DeviceRequest
from screen.engine.device.cuda_driver import cuda_cards
from screen.engine.device.failures import map_errors
from screen.engine.device.provider import CPU_MEMORY, PROVIDERS, Device
from screen.engine.device.session import open_session
from screen.settings.passes import refuse_tf32

_GPU_SHARE = 2
"""Divisor of the free memory of a GPU, for the default of `--memory`. Each session has an arena of its own, and an
arena never shrinks: the arenas of trunk and head together hold up to 1.5 times `--memory`."""

_TF32_CAPABILITY = (8, 0)
"""Minimum compute capability of GPUs with TF32 (Ampere)."""


def choose_device(wanted: str, threads: int, *, precision: str = "float32", memory: int | None = None) -> Device:
    """The device for the sessions; whether CUDA works is tested by opening a session.

    If no GPU is visible to CUDA, no session is opened.

    Args:
        wanted: `auto` (CUDA if it works, else the CPU), `cpu`, `cuda` or `cuda:N`.
        threads: number of CPU threads; 0 for `usable_cores`.
        precision: `float32` or `tf32`.
        memory: maximum size of the tensors of all concurrent session runs, in MiB; None for the default.

    Raises:
        OptionRefused: the device is unknown or does not exist, or it is `cuda` or `cuda:N` and a session does not run
            on CUDA, or the device does not support the precision.
    """
    request = DeviceRequest.parse(wanted)
    cpu = Device("cpu", threads or usable_cores(), memory=CPU_MEMORY if memory is None else memory * 2**20)
    if request.name == "cpu":
        if precision == "tf32":
            raise refuse_tf32("--device is cpu")
        return cpu
    found = cuda_cards()
    if request.index and request.index >= len(found.cards):
        names = ", ".join(f"cuda:{card.index} ({card.name})" for card in found.cards)
        raise OptionRefused(
            f"--device is {wanted}, but only these GPUs are visible to CUDA: {names}."
            if names
            else f"--device is {wanted}, but no GPU is visible to CUDA: {found.problem}.",
            wanted="the number of a GPU that is visible to CUDA; CUDA_VISIBLE_DEVICES hides and renumbers GPUs",
            next_step=f"give {'one of these devices' if names else '--device cpu'}",
        )
    if not found.cards:
        problem = OptionRefused(
            f"--device {wanted} was requested, but {found.problem}.",
            wanted="an NVIDIA GPU with its driver, onnxruntime-gpu, and the CUDA and cuDNN libraries",
            next_step="install oodscreen with the extra `cuda` on a machine with a GPU, or use --device cpu",
        )
    else:
        card = found.cards[request.index]
        if precision == "tf32" and card.compute_capability < _TF32_CAPABILITY:
            major, minor = card.compute_capability
            raise refuse_tf32(f"the GPU {card.name} has compute capability {major}.{minor}")
        free = card.total_bytes if card.free_bytes is None else card.free_bytes
        budget = free // _GPU_SHARE if memory is None else memory * 2**20
        cuda = replace(cpu, name="cuda", index=request.index, precision=precision, memory=budget)
        failed = _probe(cuda)
        if failed is None:
            return cuda
        problem = failed
    if request.name == "cuda":
        raise problem
    why = problem.found if found.cards else found.problem
    if precision == "tf32":
        raise refuse_tf32(f"no GPU can be used ({(why or problem.found).rstrip('.')})")
    return replace(cpu, note=f"running on the CPU: {why}") if found.cards or found.failed else cpu


def _probe(device: Device) -> OptionRefused | None:
    """Run a convolution on a GPU, and return the error; None if the convolution works."""
    if PROVIDERS["cuda"] not in runtime.onnxruntime.get_available_providers():
        return OptionRefused(
            "The installed onnxruntime was built without CUDA.",
            wanted="onnxruntime-gpu, instead of onnxruntime",
            next_step="pip uninstall onnxruntime, then pip install 'oodscreen[cuda]', or use --device cpu",
        )
    with redirect_stdout(io.StringIO()):  # the call prints missing libraries; the session below tests CUDA
        runtime.onnxruntime.preload_dlls()
    try:
        session = open_session(_probe_graph(), device)
        if PROVIDERS["cuda"] in session.get_providers():
            with map_errors(device.label):
                session.run(None, {"x": np.ones((1, 1, 2, 2), np.float32)})
            return None
    except EngineFailed as error:
        return OptionRefused(error.found, wanted=error.wanted, next_step=error.next_step)
    return OptionRefused(
        f"onnxruntime cannot load CUDA for the GPU {device.label} (a library of CUDA or cuDNN is missing, or "
        "has a version that this onnxruntime cannot use).",
        wanted="the CUDA and cuDNN libraries for this version of onnxruntime",
        next_step="pip install 'oodscreen[cuda]' (`oodscreen doctor` lists the libraries), or use --device cpu",
    )


def _probe_graph() -> bytes:
    """A graph with a convolution, which needs cuDNN, to test whether a device works."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("x", "y")]
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"])]
    weight = helper.make_tensor("weight", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
