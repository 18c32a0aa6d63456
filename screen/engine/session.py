"""Open onnxruntime sessions on the device that was asked for, and run them without copies.

In: a graph and a device. Out: a `GraphSession` whose inputs and outputs stay on the device.

A session that was asked for CUDA and did not get it goes on quietly on the CPU; only the session
itself tells. So it is asked, and `cuda` means CUDA or an error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export import runtime
from export.errors import EngineFailed, OptionRefused, OutOfMemory

DEVICES = ("auto", "cpu", "cuda")

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL_ONLY = 4


@dataclass(frozen=True)
class Device:
    """Where sessions run.

    Attributes:
        name: `cpu` or `cuda`, as onnxruntime's I/O binding calls it.
        threads: how many threads work on the CPU.
        note: what `auto` has to say about its choice; "" where there is nothing to say.
    """

    name: str
    threads: int
    note: str = ""

    @property
    def workers(self) -> int:
        """How many session runs go on at a time: one for each thread, or one on a GPU."""
        return max(1, self.threads) if self.name == "cpu" else 1

    @property
    def provider(self) -> str:
        """The execution provider's name."""
        return _PROVIDERS[self.name]


def choose_device(wanted: str, threads: int) -> Device:
    """Find out by a real session which device works.

    Args:
        wanted: `auto` (CUDA if it works, else the CPU), `cpu` or `cuda`.
        threads: how many may work on the CPU; 0 for all cores.

    Raises:
        OptionRefused: CUDA was demanded and a session does not get it, or there is no such device.
    """
    if wanted not in DEVICES:
        raise OptionRefused(
            f"There is no device {wanted!r}.", wanted=" or ".join(DEVICES), next_step="choose one of these"
        )
    threads = threads or usable_cores()
    if wanted == "cpu":
        return Device("cpu", threads)
    if _PROVIDERS["cuda"] in runtime.onnxruntime.get_available_providers():
        cuda = Device("cuda", threads)
        with redirect_stdout(io.StringIO()):  # what is missing, it prints; the session below tells the outcome
            runtime.onnxruntime.preload_dlls()
        if _PROVIDERS["cuda"] in _open(_probe_graph(), cuda).get_providers():
            return cuda
        why = "a session that asked for CUDA was given the CPU (no GPU, or CUDA and cuDNN libraries not found)"
    else:
        why = "this onnxruntime was built without CUDA"
    if wanted == "cuda":
        raise OptionRefused(
            f"--device cuda was asked for, but {why}.",
            wanted="an NVIDIA GPU with its driver, onnxruntime-gpu, and the CUDA and cuDNN libraries",
            next_step="pip install 'oodscreen[cuda]' on a machine with a GPU, or use --device cpu",
        )
    return Device("cpu", threads, note=f"running on the CPU: {why}")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GraphSession:
    """One graph in a session, with its values kept on the device.

    Args:
        model: the graph.
        device: where to run it.
        weights_folder: where the file is that holds weights which are not in the graph, if there is one.
        weights: weights that are not in the graph and in no file either, by name; see `outside_weight`.

    Raises:
        EngineFailed: onnxruntime cannot load the graph.
        OptionRefused: on CUDA, a node that computes with numbers was placed on the CPU.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        device: Device,
        weights_folder: Path | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._device = device
        # Kept here as long as the session, which does not own what it is given.
        self._weights = {name: np.ascontiguousarray(array) for name, array in (weights or {}).items()}
        self._session = _open(model.SerializeToString(), device, weights_folder, self._weights)
        self.outputs = [value.name for value in self._session.get_outputs()]
        if device.name != "cpu":
            _demand_device(model, self._session, device)

    def put(self, array: NDArray[Any]) -> Any:
        """An array as a value on the device: on a GPU a copy; on the CPU the same memory, which the value keeps.

        Raises:
            OutOfMemory: the device has no room for it.
        """
        with _mapped_errors(self._device):
            return runtime.onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device.name, 0)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once on device values; the outputs stay on the device.

        Raises:
            OutOfMemory: the device has no room for it.
            EngineFailed: onnxruntime failed in another way.
        """
        with _mapped_errors(self._device):
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, self._device.name, 0)
            self._session.run_with_iobinding(binding)
            return dict(zip(self.outputs, binding.get_outputs(), strict=True))


@contextmanager
def _mapped_errors(device: Device) -> Iterator[None]:
    """Turn what onnxruntime raises into our errors."""
    try:
        yield
    except Exception as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        lower = str(error).lower()
        if isinstance(error, MemoryError) or any(sign in lower for sign in _OUT_OF_MEMORY):
            raise OutOfMemory(
                f"The {device.name} ran out of memory: {text}",
                wanted="room for the tensors of a run",
                next_step="lower --memory",
            ) from error
        raise EngineFailed(
            f"onnxruntime failed on the {device.name}: {text}",
            wanted="a model that runs here",
            next_step="try --device cpu; if that fails too, report this model",
        ) from error


_OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation", "alloc_failed")


def misplaced_nodes(model: onnx.ModelProto, on_cpu: Iterable[str]) -> list[str]:
    """Nodes on the CPU that compute with numbers, not with shapes; "name (operator)".

    onnxruntime puts integer arithmetic on shapes on the CPU by design.

    Args:
        model: the graph that a session was made from.
        on_cpu: names of the nodes that it placed on the CPU.
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


def _demand_device(model: onnx.ModelProto, session: Any, device: Device) -> None:
    assigned = session.get_provider_graph_assignment_info()
    on_cpu = [node.name for part in assigned if part.ep_name == _PROVIDERS["cpu"] for node in part.get_nodes()]
    misplaced = misplaced_nodes(model, on_cpu)
    if device.provider not in session.get_providers() or misplaced:
        told = f"{len(misplaced)} node(s) were placed on the CPU: {', '.join(misplaced[:5])}"
        raise OptionRefused(
            f"The model does not run on {device.name} as a whole; {told if misplaced else 'the session has no CUDA'}.",
            wanted="every node that computes with numbers on the GPU",
            next_step="use --device cpu, or replace these operators in the model",
        )


def to_numpy(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Copy device values to the host."""
    return {name: values[name].numpy() for name in names}


def outside_weight(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    """A weight whose numbers are not in the graph: a `GraphSession` reads them where they lie in memory."""
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
    options.intra_op_num_threads = 1  # see `screen.engine.passes`: threads share work between runs
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    runtime.onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    providers = list(dict.fromkeys([device.provider, _PROVIDERS["cpu"]]))
    try:
        return runtime.onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise EngineFailed(
            f"onnxruntime {runtime.onnxruntime.__version__} cannot load the model: {error}",
            wanted="a graph whose operators this onnxruntime knows",
            next_step="export the model again with this version of oodscreen, or report it",
        ) from error


def _probe_graph() -> bytes:
    """The smallest graph there is, to see which provider a session gets."""
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
