"""Experiments of `benchmarks.gpu --experiments`: the gain of CUDA graphs and of pinned host memory.

In: a `Setup`. Out: records. oodscreen uses neither CUDA graphs nor pinned memory; the figures show whether it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_networks import make_images
from benchmarks.gpu_records import Recorder, Setup
from export.contract.reader import read_model
from export.runtime import onnxruntime
from screen.run.screener import Screener

_COPY_BYTES = 32 * 2**20
"""Bytes of the host-to-device copy, as for the pixels of a batch."""


def experiments(setup: Setup, recorder: Recorder) -> None:
    """Measure the head of the article's network with and without a CUDA graph, and copies from pinned host memory."""
    for rows in (64, 1024):
        for graph in ("0", "1") if setup.device != "cpu" else ("0",):
            name = f"head of {rows} rows, {'with' if graph == '1' else 'without'} a CUDA graph"
            with recorder.attempt("article", name):
                recorder.require_time()
                recorder.add("article", name, None, seconds=_head_seconds(setup, rows, graph))
    if setup.device == "cpu":
        recorder.add("", "pinned memory", None, note="needs a GPU")
        return
    for pinned in (False, True):
        name = f"host-to-device copy, {'pinned' if pinned else 'pageable'}"
        with recorder.attempt("", name):
            recorder.require_time()
            recorder.add("", name, None, bytes_per_second=_copy_speed(pinned))


def _head_seconds(setup: Setup, rows: int, graph: str) -> float:
    """Seconds of one session run of the head, with all tensors at fixed addresses on the device."""
    model = read_model(setup.models["article"])
    engine = Screener(model, passes=30, device=setup.device)._engine
    boundary = engine._trunk.run(np.resize(make_images((28, 28, 1), 64), (rows, 28, 28, 1)))
    inputs = {**boundary.tensors, **engine._masks(engine._runs[0], boundary.rows)}
    outputs = engine._head.run(inputs)
    cuda: Any = ("CUDAExecutionProvider", {"enable_cuda_graph": graph, "use_tf32": "0"})
    providers = [cuda, "CPUExecutionProvider"] if setup.device != "cpu" else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(engine.plan.head.SerializeToString(), providers=providers)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return _median_seconds(run, 20)


def _copy_speed(pinned: bool) -> float:
    """Bytes per second of the copy of a session's input to the device."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = np.ones(_COPY_BYTES, np.uint8)
    if pinned:
        import torch

        array = torch.from_numpy(array).pin_memory().numpy()
    return _COPY_BYTES / _median_seconds(lambda: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0), 10)


def _median_seconds(function: Callable[[], object], turns: int) -> float:
    function()
    function()
    taken = []
    for _ in range(turns):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[turns // 2]
