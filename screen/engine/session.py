"""Open onnxruntime sessions on a device, and run them on tensors that stay on the device.

In: a graph and a device. Out: a `GraphSession` whose inputs and outputs stay on the device.

When CUDA does not load, onnxruntime falls back to the CPU without an error; only the session's list of execution
providers differs. This module checks that list: a session on `cuda` runs on CUDA, or an error is raised.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export import runtime
from export.errors import EngineFailed, OptionRefused
from screen.cores import usable_cores
from screen.device import DeviceRequest
from screen.engine.cuda_driver import cuda_cards
from screen.engine.provider import cuda_options, explain_failure, shorten_failure
from screen.settings.passes import refuse_tf32

CPU_MEMORY = 512 * 2**20
"""Default of `--memory` on the CPU, in bytes."""

_GPU_SHARE = 2
"""Default of `--memory` on a GPU: its free memory divided by this. Each session has an arena of its own, and an arena
never shrinks: the arenas of trunk and head together hold up to 1.5 times `--memory`."""

_TF32_CAPABILITY = (8, 0)
"""Least compute capability of GPUs with TF32 (Ampere)."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL_ONLY = 4


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
        """Name of the device as `--device` has it, such as `cuda:1`; `cuda` is the first GPU."""
        return f"{self.name}:{self.index}" if self.index else self.name

    @property
    def workers(self) -> int:
        """Number of concurrent session runs: one for each thread on the CPU, one on a GPU."""
        return max(1, self.threads) if self.name == "cpu" else 1

    @property
    def provider(self) -> str:
        """Name of the execution provider."""
        return _PROVIDERS[self.name]

    @property
    def providers(self) -> list[Any]:
        """Execution providers of a session, with their options."""
        if self.name == "cpu":
            return [self.provider]
        return [(self.provider, cuda_options(self.index, self.precision, self.memory)), _PROVIDERS["cpu"]]


def choose_device(wanted: str, threads: int, *, precision: str = "float32", memory: int | None = None) -> Device:
    """The device for the sessions; whether CUDA works is tested by opening a session.

    Without a driver and a GPU, no session is opened.

    Args:
        wanted: `auto` (CUDA if it works, else the CPU), `cpu`, `cuda` or `cuda:N`.
        threads: number of CPU threads; 0 for `usable_cores`.
        precision: `float32` or `tf32`.
        memory: maximum size of the tensors of all concurrent session runs, in MiB; None for the default.

    Raises:
        OptionRefused: the device is unknown or does not exist, or it is `cuda` and a session does not run on CUDA, or
            the device does not have the precision.
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
            f"--device is {wanted}, but CUDA sees {names or f'no GPU: {found.problem}'}.",
            wanted="the number of a GPU that CUDA sees; CUDA_VISIBLE_DEVICES hides and renumbers GPUs",
            next_step=f"give {'one of these devices' if names else '--device cpu'}",
        )
    if not found.cards:
        problem = OptionRefused(
            f"--device {wanted} was requested, but {found.problem}.",
            wanted="an NVIDIA GPU with its driver, onnxruntime-gpu, and the CUDA and cuDNN libraries",
            next_step="pip install 'oodscreen[cuda]' on a machine with a GPU, or use --device cpu",
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
    if precision == "tf32":
        raise refuse_tf32(f"no GPU can be used ({found.problem or problem.found})")
    why = problem.found if found.cards else found.problem
    return replace(cpu, note=f"running on the CPU: {why}") if found.cards or found.failed else cpu


def _probe(device: Device) -> OptionRefused | None:
    """Run a convolution on a GPU; None if it works, else the error."""
    if _PROVIDERS["cuda"] not in runtime.onnxruntime.get_available_providers():
        return OptionRefused(
            "This onnxruntime was built without CUDA.",
            wanted="onnxruntime-gpu, instead of onnxruntime",
            next_step="pip uninstall onnxruntime, then pip install 'oodscreen[cuda]', or use --device cpu",
        )
    with redirect_stdout(io.StringIO()):  # the call prints missing libraries; the session below tests the result
        runtime.onnxruntime.preload_dlls()
    try:
        session = _open(_probe_graph(), device)
        if _PROVIDERS["cuda"] in session.get_providers():
            with _mapped_errors(device):
                session.run(None, {"x": np.ones((1, 1, 2, 2), np.float32)})
            return None
    except EngineFailed as error:
        return OptionRefused(error.found, wanted=error.wanted, next_step=error.next_step)
    return OptionRefused(
        f"onnxruntime cannot load CUDA for the GPU {device.label} (libraries of CUDA or cuDNN are missing).",
        wanted="the CUDA and cuDNN libraries for this version of onnxruntime",
        next_step="pip install 'oodscreen[cuda]' (`oodscreen doctor` lists the libraries), or use --device cpu",
    )


class GraphSession:
    """An onnxruntime session of one graph, with inputs and outputs on the device.

    Args:
        model: the graph.
        device: device of the session.
        weights_folder: folder of the external weights file, if the model has one.
        weights: external weights in memory, by name; see `external_weight`.

    Raises:
        EngineFailed: onnxruntime cannot load the graph.
        OptionRefused: on CUDA, onnxruntime placed a node other than shape arithmetic on the CPU.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        device: Device,
        weights_folder: Path | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._device = device
        # The session does not own the memory of its external weights; this reference prevents it from being freed.
        self._weights = {name: np.ascontiguousarray(array) for name, array in (weights or {}).items()}
        self._session = _open(model.SerializeToString(), device, weights_folder, self._weights)
        self.outputs = [value.name for value in self._session.get_outputs()]
        if device.name != "cpu":
            _require_device(model, self._session, device)

    def put(self, array: NDArray[Any]) -> Any:
        """The array as a device value: a copy on a GPU; on the CPU a view, which holds a reference to the array.

        Raises:
            OutOfMemory: the device has too little free memory.
        """
        with _mapped_errors(self._device):
            return runtime.onnxruntime.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array), self._device.name, self._device.index
            )

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the session on device values, and return its outputs by name, on the device.

        Raises:
            OutOfMemory: the device has too little free memory.
            EngineFailed: onnxruntime failed for another reason.
        """
        with _mapped_errors(self._device):
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, self._device.name, self._device.index)
            self._session.run_with_iobinding(binding)
            return dict(zip(self.outputs, binding.get_outputs(), strict=True))


@contextmanager
def _mapped_errors(device: Device) -> Iterator[None]:
    """Map onnxruntime's exceptions to `OutOfMemory` and `EngineFailed`."""
    try:
        yield
    except Exception as error:
        raise explain_failure(error, device.label) or EngineFailed(
            f"onnxruntime failed on the device {device.label}: {shorten_failure(error)}",
            wanted="a model that this version of onnxruntime can run on this device",
            next_step=("" if device.name == "cpu" else "use --device cpu; if that fails too, ")
            + "report this error together with the model",
        ) from error


def misplaced_nodes(model: onnx.ModelProto, on_cpu: Iterable[str]) -> list[str]:
    """Nodes on the CPU that are not shape arithmetic, each as "name (operator)".

    onnxruntime places integer arithmetic on shapes on the CPU by design.

    Args:
        model: the session's graph.
        on_cpu: names of the nodes that onnxruntime placed on the CPU.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    names = set(on_cpu)
    return [
        f"{node.name} ({node.op_type})"
        for node in model.graph.node
        if node.name in names and any(types.get(name) not in _INTEGERS for name in node.output if name)
    ]


_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)


def _require_device(model: onnx.ModelProto, session: Any, device: Device) -> None:
    assigned = session.get_provider_graph_assignment_info()
    on_cpu = [node.name for group in assigned if group.ep_name == _PROVIDERS["cpu"] for node in group.get_nodes()]
    misplaced = misplaced_nodes(model, on_cpu)
    if _PROVIDERS[device.name] not in session.get_providers() or misplaced:
        placed = f"onnxruntime placed {len(misplaced)} node(s) on the CPU: {', '.join(misplaced[:5])}"
        without_cuda = "the session has no CUDA execution provider"
        raise OptionRefused(
            f"The model does not run entirely on {device.label}: {placed if misplaced else without_cuda}.",
            wanted="every node on the GPU, apart from shape arithmetic",
            next_step="use --device cpu, or replace these operators in the model",
        )


def to_numpy(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Copy device values to the host."""
    return {name: values[name].numpy() for name in names}


def external_weight(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    """An initializer without data; `GraphSession` passes the array to onnxruntime without a copy in the graph."""
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _open(
    data: bytes,
    device: Device,
    weights_folder: Path | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    options = runtime.onnxruntime.SessionOptions()
    if weights:
        values = [runtime.onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    if weights_folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_folder))
    options.intra_op_num_threads = 1  # for bitwise identical rows, see `screen.engine.passes`
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    runtime.onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    if device.name == "cuda":
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        # The fallback of onnxruntime's Python code prints to standard output, and hides the reason.
        return runtime.onnxruntime.InferenceSession(data, options, providers=device.providers, enable_fallback=False)
    except Exception as error:
        raise explain_failure(error, device.label) or EngineFailed(
            f"onnxruntime {runtime.onnxruntime.__version__} cannot load the model: {error}",
            wanted="a graph whose operators this version of onnxruntime supports",
            next_step="export the model again with this version of oodscreen; if that fails too, report this error",
        ) from error


def _probe_graph() -> bytes:
    """A graph with a convolution, which needs cuDNN, to test whether a device works."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("x", "y")]
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"])]
    weight = helper.make_tensor("weight", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
