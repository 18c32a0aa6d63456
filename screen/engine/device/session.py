"""Open onnxruntime sessions on a device, and run them on tensors that stay on the device.

In: a graph and a device. Out: a `GraphSession` whose inputs and outputs stay on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export import runtime
from export.errors import EngineFailed
from screen.engine.device.failures import explain_failure, map_errors
from screen.engine.device.placement import require_placement
from screen.engine.device.provider import Device

_FATAL_ONLY = 4


class GraphSession:
    """An onnxruntime session of one graph, with inputs and outputs on the device.

    Args:
        model: the graph.
        device: device of the session.
        weights_folder: folder of the external weights file, if the model has one.
        weights: external weights in memory, by name; see `external_weight`.

    Raises:
        EngineFailed: onnxruntime cannot load the graph.
        OptionRefused: on CUDA, the session does not run entirely on the GPU (see `require_placement`).
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
        self._session = open_session(model.SerializeToString(), device, weights_folder, self._weights)
        self.outputs = [value.name for value in self._session.get_outputs()]
        if device.name != "cpu":
            require_placement(model, self._session, device)

    def put(self, array: NDArray[Any]) -> Any:
        """The array as a device value (`OrtValue`): a copy on a GPU or of a non-contiguous array, else a view.

        Raises:
            OutOfMemory: the device has too little free memory.
        """
        with map_errors(self._device.label):
            return runtime.onnxruntime.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array), self._device.name, self._device.index
            )

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the session on device values, and return its outputs by name, on the device.

        Raises:
            OutOfMemory: the device has too little free memory.
            EngineFailed: onnxruntime failed for another reason.
        """
        with map_errors(self._device.label):
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, self._device.name, self._device.index)
            self._session.run_with_iobinding(binding)
            return dict(zip(self.outputs, binding.get_outputs(), strict=True))


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


def open_session(
    data: bytes,
    device: Device,
    weights_folder: Path | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    """The onnxruntime session of a serialized graph; whether it runs on the device is not tested.

    Args:
        data: the graph.
        device: device of the session.
        weights_folder: folder of the external weights file, if the graph has one.
        weights: external weights in memory, by name.

    Raises:
        EngineFailed: onnxruntime cannot load the graph.
    """
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
        # The fallback of onnxruntime's Python code prints to standard output, and hides the reason for the failure.
        return runtime.onnxruntime.InferenceSession(data, options, providers=device.providers, enable_fallback=False)
    except Exception as error:
        raise explain_failure(error, device.label) or EngineFailed(
            f"onnxruntime {runtime.onnxruntime.__version__} cannot load the model: {error}",
            wanted="a graph whose operators this version of onnxruntime supports",
            next_step="export the model again with this version of oodscreen; if that fails too, report this error",
        ) from error
