"""Cost of T passes: oodscreen and the alternatives, measured alternately.

    python -m benchmarks.throughput [--data DIR] [--device cpu|cuda] [--repeats N] [--quick]

For each network (see `benchmarks.networks`) and T:
  (a) keras: the article's loop, `predict` with dropout on;
  (b) onnxruntime: the exported file in a default session, looped;
  (c) oodscreen: `oodscreen run` as a process, from Parquet to Parquet, start-up and decoding included;
  (d) floor: one trunk pass plus the bare matrix products of T heads (where the head has convolutions,
      T times the difference of a deterministic pass and the trunk).
The times of (a) and (b) are linear in T: a few passes are timed after a warm-up, and the time is scaled to T. Each
measurement runs in a separate process, so that its peak memory can be measured. Then the cost is measured for different
numbers of rows and shard sizes.
Out: benchmarks/results/throughput.json, the source of the table in docs/performance.md, and throughput.svg.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.networks import NETWORKS, SHAPES

RESULT = Path(__file__).parent / "results" / "throughput.json"
PASSES = (1, 10, 50, 100, 500)
ROWS = {"article": 10_000, "mobilenet": 256, "blocks": 128, "blocks-spatial": 64}
BATCH = {"article": 1000, "mobilenet": 64, "blocks": 64, "blocks-spatial": 64}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TIMED_PASSES = 3
_VERSIONS = ("oodscreen", "onnxruntime-gpu", "onnx", "numpy", "pyarrow", "tensorflow", "keras", "tf2onnx")


# Each measurement runs in a separate process and prints one JSON object.


def measure_keras(name: str, images: NDArray[np.uint8], _: Path, __: str) -> dict[str, Any]:
    """Seconds of one pass of the article's loop over all images."""
    from benchmarks.networks import build

    model = build(name)
    pixels = images * np.float32(1 / 255)
    first = model.predict(pixels[:4], verbose=0)
    assert np.any(first != model.predict(pixels[:4], verbose=0)), "dropout must be on"
    batch = BATCH[name]
    return {"seconds_a_pass": _median_of_passes(lambda: model.predict(pixels, batch_size=batch, verbose=0))}


def measure_onnxruntime(name: str, images: NDArray[np.uint8], model: Path, device: str) -> dict[str, Any]:
    """Seconds of one pass of the exported file, batch by batch."""
    from export.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=[PROVIDERS[device]])
    batch = BATCH[name]

    def one_pass() -> None:
        for start in range(0, len(images), batch):
            session.run(None, {"image": images[start : start + batch]})

    return {"seconds_a_pass": _median_of_passes(one_pass)}


def measure_floor(name: str, images: NDArray[np.uint8], model: Path, device: str) -> dict[str, Any]:
    """Seconds of one trunk pass, of one deterministic pass, and of the bare matrix products of the head."""
    from export.contract.reader import read_model
    from export.graph.variants import with_rate
    from export.runtime import onnxruntime
    from screen.engine.graph.plan import plan_engine
    from screen.engine.graph.sizes import infer_sizes
    from screen.engine.graph.split import split_graph

    provider = PROVIDERS[device]
    exported = read_model(model)
    plan = plan_engine(exported)
    batch = min(BATCH[name], len(images))
    trunk = onnxruntime.InferenceSession(plan.trunk.SerializeToString(), providers=[provider])
    whole = onnxruntime.InferenceSession(with_rate(exported.proto, 0.0).SerializeToString(), providers=[provider])

    def trunk_pass() -> None:
        for start in range(0, len(images), batch):
            trunk.run(None, {"image": images[start : start + batch]})

    def whole_pass() -> None:
        for start in range(0, len(images), batch):
            whole.run(None, {"image": images[start : start + batch]})

    seconds = {"trunk_seconds": _median_of_passes(trunk_pass), "deterministic_seconds": _median_of_passes(whole_pass)}
    split = split_graph(exported.proto.graph)
    if any(node.op_type == "Conv" for node in split.head):
        return {**seconds, "head_seconds": max(0.0, seconds["deterministic_seconds"] - seconds["trunk_seconds"])}
    sizes = infer_sizes(exported.proto)
    shapes = [sizes.shapes[node.input[1]] for node in split.head if node.op_type in ("MatMul", "Gemm")]
    products = [_bare_product(batch, inner, outer, provider) for inner, outer in shapes]

    def head_pass() -> None:
        for _ in range(0, len(images), batch):
            for product in products:
                product()

    return {**seconds, "head_seconds": _median_of_passes(head_pass)}


def _bare_product(rows: int, inner: int, outer: int, provider: str) -> Callable[[], None]:
    from onnx import TensorProto, helper, numpy_helper

    from export.runtime import onnxruntime

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.random((inner, outer)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, outer])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
    x = rng.random((rows, inner)).astype(np.float32)

    def run() -> None:
        session.run(None, {"x": x})

    return run


def measure_engine(name: str, images: NDArray[np.uint8], model: Path, device: str) -> dict[str, Any]:
    """Seconds of one pass of the head, and the ratio of T = 100 passes to one deterministic pass, without start-up.

    A pass of the head consists of masks, products and statistics, without the trunk.
    """
    from export.contract.reader import read_model
    from export.graph.variants import with_rate
    from export.runtime import onnxruntime
    from screen.run.screener import Screener

    passes = 100
    exported = read_model(model)
    plain = onnxruntime.InferenceSession(
        with_rate(exported.proto, 0.0).SerializeToString(), providers=[PROVIDERS[device]]
    )
    screener = Screener(exported, passes=passes, device=device)
    rows, engine = images[: BATCH[name]], screener._engine

    once, whole = _medians_in_turn(lambda: plain.run(None, {"image": rows}), lambda: engine.summarize(rows))
    trunk = _median_of_passes(lambda: engine._trunk.run(rows))
    return {
        "seconds_a_pass": (whole - trunk) / passes * len(images) / len(rows),
        "hundred_passes_over_deterministic": whole / once,
    }


def _medians_in_turn(*functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each function, run alternately, so that other load affects all of them."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(_TIMED_PASSES):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def _median_of_passes(one_pass: Callable[[], Any]) -> float:
    return _medians_in_turn(one_pass)[0]


MEASURES = {
    "keras": measure_keras,
    "onnxruntime": measure_onnxruntime,
    "floor": measure_floor,
    "engine": measure_engine,
}


# The parent process makes models and shards, starts the measurements alternately, and collects their output.


_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print("\\n" + json.dumps([time.perf_counter() - started, usage.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Script of a small process that starts the measured process; peak memory includes that of the parent process."""


def run_process(command: list[str]) -> tuple[str, float, float]:
    """Output, wall seconds and peak memory in MiB of one process."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    output, _, usage = done.stdout.rstrip("\n").rpartition("\n")
    seconds, memory = json.loads(usage)
    return output, seconds, memory


def measure(kind: str, name: str, model: Path, shards: Path, device: str) -> dict[str, Any]:
    """Run one measurement in a separate process."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--measure", kind, "--network", name]
    output, _, memory = run_process([*command, "--model", str(model), "--shards", str(shards), "--device", device])
    return {**json.loads(output.splitlines()[-1]), "peak_mib": round(memory)}


def screen(model: Path, shards: Path, passes: int, device: str, *options: str) -> dict[str, Any]:
    """Measure `oodscreen run` in a separate process."""
    with tempfile.TemporaryDirectory() as results:
        command = [str(Path(sys.executable).with_name("oodscreen")), "run", str(model), str(shards), f"{results}/out"]
        _, seconds, memory = run_process([*command, "-T", str(passes), "--device", device, *options])
    return {"passes": passes, "seconds": round(seconds, 2), "peak_mib": round(memory)}


def make_model(name: str, folder: Path) -> Path:
    """Path of one of the networks, exported; an existing file is reused."""
    from benchmarks.networks import build
    from export.exporter import export_model

    model = folder / f"{name}.onnx"
    if not model.exists():
        export_model(build(name), model, scale=1 / 255)
    return model


def make_shards(name: str, data: Path, folder: Path) -> Path:
    """Folder of shards with real images: MNIST digits, or CIFAR-10 resized to the network's size."""
    from PIL import Image

    from screen.demo import decode_images

    if name == "article":
        return data / "mnist" / "test"
    table = pq.read_table(sorted((data / "cifar10_jpeg").glob("*.parquet"))[0]).slice(0, ROWS[name])
    images, _ = decode_images(table)
    height, width, _ = SHAPES[name]
    encoded = []
    for image in images[..., 0]:
        buffer = io.BytesIO()
        Image.fromarray(image).resize((width, height)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": encoded}), folder / "a.parquet", row_group_size=64)
    return folder


def read_pixels(shards: Path, shape: tuple[int, int, int], rows: int) -> NDArray[np.uint8]:
    """Images `uint8 [N, H, W, C]` of shards, for the measurements that do not read Parquet."""
    from PIL import Image

    images = []
    for path in sorted(shards.glob("*.parquet")):
        for row in pq.read_table(path)["image"].to_pylist():
            data = row["bytes"] if isinstance(row, dict) else row
            images.append(np.asarray(Image.open(io.BytesIO(data))).reshape(shape))
    return np.stack(images)[:rows]


def compare(name: str, data: Path, work: Path, device: str, repeats: int, passes: tuple[int, ...]) -> dict[str, Any]:
    """Medians of all four measurements on one network, run alternately, `repeats` times."""
    model = make_model(name, work)
    shards = make_shards(name, data, work / name)
    rounds = [{kind: measure(kind, name, model, shards, device) for kind in MEASURES} for _ in range(repeats)]
    runs = []
    for count in passes:
        tries = [screen(model, shards, count, device) for _ in range(repeats if count <= 100 else 1)]
        runs.append(sorted(tries, key=lambda run: run["seconds"])[(len(tries) - 1) // 2])
        print(f"{name}: T = {count}: {runs[-1]['seconds']} s, {runs[-1]['peak_mib']} MiB", flush=True)

    def middle(kind: str, key: str) -> float:
        return float(round(statistics.median(one[kind][key] for one in rounds), 5))

    return {
        "network": NETWORKS[name],
        "rows": ROWS[name],
        "keras_seconds_a_pass": middle("keras", "seconds_a_pass"),
        "keras_peak_mib": middle("keras", "peak_mib"),
        "onnxruntime_seconds_a_pass": middle("onnxruntime", "seconds_a_pass"),
        "onnxruntime_peak_mib": middle("onnxruntime", "peak_mib"),
        "trunk_seconds": middle("floor", "trunk_seconds"),
        "deterministic_seconds": middle("floor", "deterministic_seconds"),
        "head_floor_seconds_a_pass": middle("floor", "head_seconds"),
        "head_seconds_a_pass": middle("engine", "seconds_a_pass"),
        "hundred_passes_over_deterministic": middle("engine", "hundred_passes_over_deterministic"),
        "oodscreen": runs,
    }


def compare_sizes(data: Path, work: Path, device: str, rows: tuple[int, ...]) -> dict[str, Any]:
    """Memory for numbers of rows at T = 2, and time for shard sizes at T = 10, with the article's network."""
    model = make_model("article", work)
    source = sorted((data / "mnist" / "test").glob("*.parquet"))
    by_rows = []
    for count in rows:
        folder = work / f"rows-{count}"
        folder.mkdir()
        for copy in range(count // 10_000):
            for path in source:
                (folder / f"{copy:03d}-{path.name}").symlink_to(path.resolve())
        by_rows.append({"rows": count, **screen(model, folder, 2, device)})
        print(f"rows {count}: {by_rows[-1]['seconds']} s, {by_rows[-1]['peak_mib']} MiB", flush=True)
    table = pa.concat_tables([pq.read_table(path) for path in source])
    by_shard = []
    for size in (100, 1000, 10_000):
        folder = work / f"shards-{size}"
        folder.mkdir()
        for start in range(0, len(table), size):
            pq.write_table(table.slice(start, size), folder / f"{start:06d}.parquet")
        by_shard.append({"rows_a_shard": size, **screen(model, folder, 10, device)})
        print(f"shards of {size}: {by_shard[-1]['seconds']} s", flush=True)
    return {"by_rows": by_rows, "by_shard_size": by_shard}


def plot(result: dict[str, Any], target: Path) -> None:
    """Plot seconds against T for each network and all four measurements."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "oodscreen"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(result["networks"]), figsize=(12, 3.6))
    for axis, (name, one) in zip(np.atleast_1d(axes), result["networks"].items(), strict=True):
        passes = np.array([run["passes"] for run in one["oodscreen"]])
        axis.plot(passes, one["keras_seconds_a_pass"] * passes, "o--", label="Keras predict loop")
        axis.plot(passes, one["onnxruntime_seconds_a_pass"] * passes, "s--", label="onnxruntime loop")
        axis.plot(passes, [run["seconds"] for run in one["oodscreen"]], "D-", label="oodscreen, end to end")
        floor = one["trunk_seconds"] + one["head_floor_seconds_a_pass"] * passes
        axis.plot(passes, floor, ":", color="grey", label="floor: trunk + bare products")
        axis.set(title=f"{name}, {one['rows']} rows", xscale="log", yscale="log", xlabel="passes T", ylabel="seconds")
    np.atleast_1d(axes)[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Run all measurements, or one in this process, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=[*sorted(NETWORKS), "sizes"], help="repeat only this measurement")
    parser.add_argument("--quick", action="store_true", help="one repeat, small T, few rows, to test the script")
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=sorted(NETWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        images = read_pixels(options.shards, SHAPES[options.network], ROWS[options.network])
        print(json.dumps(MEASURES[options.measure](options.network, images, options.model, options.device)))
        return
    repeats, passes = (1, (1, 10)) if options.quick else (options.repeats, PASSES)
    rows = (10_000, 20_000) if options.quick else (50_000, 1_000_000)
    result: dict[str, Any] = {
        "device": options.device,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in _VERSIONS},
        "networks": {},
    }
    target = RESULT.with_stem("throughput-quick") if options.quick else RESULT
    target = target if options.device == "cpu" else target.with_stem(f"{target.stem}-{options.device}")
    with tempfile.TemporaryDirectory() as work:
        if options.only:
            result = json.loads(target.read_text())
        for name in NETWORKS:
            if options.only in (None, name):
                result["networks"][name] = compare(name, options.data, Path(work), options.device, repeats, passes)
        if options.only in (None, "sizes"):
            result["sizes"] = compare_sizes(options.data, Path(work), options.device, rows)
    target.write_text(json.dumps(result, indent=2) + "\n")
    plot(result, target.with_suffix(".svg"))


if __name__ == "__main__":
    main()
