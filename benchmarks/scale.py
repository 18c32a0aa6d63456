"""Scaling beyond one machine: the gain of workers, and the cost of small shards, a lost worker and a billion images.

    python -m benchmarks.scale [--data DIR] [--only workers|small|lost|stages]

In: DATA/mnist, DATA/cifar10_jpeg, DATA/imagenet_sample_jpeg; the networks of `benchmarks.networks`, exported.

  workers  `--engine ray` with one and with two workers of one thread, and the local engine with one thread; time from
           the first ready worker to the last shard, without start-up.
  small    `oodscreen run` over 10,000 shards of 20 rows, and over the same rows in 20 shards.
  lost     two workers, one of them killed (SIGKILL) half-way: seconds, and whether the results are identical.
  stages   core seconds and bytes per image of each stage, with one thread, for the estimate of a billion images.

Out: benchmarks/results/scale.json, the source of the tables in docs/, and scale.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.networks import NETWORKS, SHAPES
from benchmarks.throughput import make_model, run_process
from screen.output.writer import WrittenShard
from screen.run.progress import LogLines

RESULT = Path(__file__).parent / "results" / "scale.json"
PASSES = 100
_ROWS = 32_000
_REPEATS = 3
_TURNS = 2
_SAMPLE = {"article": 4096, "mobilenet": 192, "blocks": 64}
_BILLION = 10**9

ASSUMED: dict[str, Any] = {
    "cores_a_node": 16,
    "network_bits_a_second": 10e9,
    "gpu_flops_a_second": 10e12,
    "rows_a_shard": 100_000,
    "night_hours": 8,
}
"""Assumptions of the estimate. The speed of the GPU was not measured: the assumed speed is a third of the 31.2 TFLOP/s
in float32 in NVIDIA's data sheet of the A10."""


class _Timed(LogLines):
    """Listener that records the start of the run and the end of its last shard, in seconds of `time.perf_counter`."""

    def __init__(self) -> None:
        super().__init__()
        self.began = self.ended = 0.0
        self.rows = 0
        self.half = threading.Event()

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Record the start: the workers are ready."""
        super().started(shards, rows, skipped, note)
        self._all = rows
        self.began = time.perf_counter()

    def advanced(self, rows: int, flagged: int | None = None) -> None:
        """Count rows, and set `half` once half of the rows are scored."""
        super().advanced(rows)
        self.rows += rows
        if 2 * self.rows >= self._all:
            self.half.set()

    def finished(self, shard: WrittenShard) -> None:
        """Record the end of the shard; the end of the last shard remains recorded."""
        super().finished(shard)
        self.ended = time.perf_counter()


def measure_run(model: Path, shards: Path, output: Path, workers: int, kill: bool) -> dict[str, Any]:
    """Measure one run in this process, with `workers` workers on Ray, or with the local engine if `workers` is 0."""
    from screen.cluster.connect import open_cluster
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from screen.run.scoring import open_here

    listener = _Timed()
    config = RunConfig(passes=PASSES, device="cpu", threads=1, engine="ray" if workers else "local")
    if kill:
        threading.Thread(target=_kill_a_worker, args=(listener.half,), daemon=True).start()
    if workers:
        import ray

        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    summary = run_screening(
        model, str(shards), output, config, listener, open_executor=open_cluster if workers else open_here
    )
    return {"workers": workers, "rows": summary.rows, "seconds": round(listener.ended - listener.began, 2)}


def _kill_a_worker(when: threading.Event) -> None:
    """Kill one of the busy workers of this process once `when` is set."""
    when.wait()
    while True:
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and _is_own_worker(process):
                os.kill(int(process.name), signal.SIGKILL)
                return
        time.sleep(0.01)


def _is_own_worker(process: Path) -> bool:
    try:
        if b"ray::Worker.score" not in (process / "cmdline").read_bytes():
            return False
        while process.name != "1":
            parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
            if int(parent) == os.getpid():
                return True
            process = process.parent / parent
    except (OSError, ValueError):
        pass
    return False


def run_apart(model: Path, shards: Path, output: Path, workers: int, *, kill: bool = False) -> dict[str, Any]:
    """`measure_run` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", str(workers), "--model", str(model)]
    command += ["--shards", str(shards), "--output", str(output), *(["--kill"] if kill else [])]
    return dict(json.loads(run_process(command)[0].splitlines()[-1]))


def mnist_shards(data: Path, folder: Path, rows: int, rows_a_shard: int) -> Path:
    """Write the test digits, repeated, in shards of equal size."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted((data / "mnist" / "test").glob("*.parquet"))])
    table = pa.concat_tables([table] * -(-rows // len(table))).combine_chunks()
    folder.mkdir(parents=True)
    for start in range(0, rows, rows_a_shard):
        pq.write_table(table.slice(start, min(rows_a_shard, rows - start)), folder / f"{start:07d}.parquet")
    return folder


def compare_workers(data: Path, work: Path) -> dict[str, Any]:
    """Median seconds of the local engine, one worker and two workers, run alternately."""
    model, shards = make_model("article", work), mnist_shards(data, work / "workers", _ROWS, 1000)
    seconds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for repeat in range(_TURNS):
        for workers, taken in seconds.items():
            taken.append(run_apart(model, shards, work / f"workers-{workers}-{repeat}", workers)["seconds"])
            print(f"{workers} worker(s): {taken[-1]} s", flush=True)
    middle = {workers: statistics.median(taken) for workers, taken in seconds.items()}
    return {
        "rows": _ROWS,
        "local_seconds": middle[0],
        "one_seconds": middle[1],
        "two_seconds": middle[2],
        "gain": round(middle[1] / middle[2], 3),
        "each": seconds,
    }


def compare_small(data: Path, work: Path) -> dict[str, Any]:
    """Compare the local engine on small and on large shards."""
    model, seconds = make_model("article", work), {}
    for size in (20, 10_000):
        shards = mnist_shards(data, work / f"small-{size}", 200_000, size)
        out = str(work / f"small-{size}-out")
        command = [str(Path(sys.executable).with_name("oodscreen")), "run", str(model), str(shards), out, "--json"]
        summary = json.loads(run_process([*command, "-T", str(PASSES), "--device", "cpu"])[0].splitlines()[-1])
        seconds[size] = {"seconds": summary["seconds"], "stages": summary["stages"]}
        print(f"shards of {size} rows: {summary['seconds']} s", flush=True)
    share = seconds[10_000]["seconds"] / seconds[20]["seconds"]
    return {"rows": 200_000, "small": seconds[20], "large": seconds[10_000], "throughput_share": round(share, 3)}


def lose_worker(data: Path, work: Path) -> dict[str, Any]:
    """Compare two workers without interruption with two workers of which one is killed half-way."""
    model, shards = make_model("article", work), mnist_shards(data, work / "lost", _ROWS, 1000)
    calm = run_apart(model, shards, work / "calm", 2)
    lost = run_apart(model, shards, work / "lost-out", 2, kill=True)
    names = [
        path.relative_to(work / "calm") for path in (work / "calm").rglob("*") if path.suffix in (".parquet", ".pq")
    ]
    names.append(Path("_manifest.jsonl"))
    same = all((work / "calm" / name).read_bytes() == (work / "lost-out" / name).read_bytes() for name in names)
    return {"rows": _ROWS, "calm_seconds": calm["seconds"], "lost_seconds": lost["seconds"], "same_files": same}


def sample_shard(name: str, data: Path, folder: Path) -> Path:
    """Write a shard of real images of the kind that the network classifies; the run resizes photographs."""
    sources = {"article": "mnist/test", "mobilenet": "imagenet_sample_jpeg", "blocks": "cifar10_jpeg"}
    rows, paths = _SAMPLE[name], sorted((data / sources[name]).rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path, columns=["image"]) for path in paths])
    table = pa.concat_tables([table] * -(-rows // len(table))).slice(0, rows).combine_chunks()
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet", row_group_size=max(rows // 2, 1))
    return folder


def measure_stages(name: str, data: Path, work: Path) -> dict[str, Any]:
    """Core seconds and bytes per image of each stage, with one thread, so that core seconds equal CPU time."""
    from benchmarks.networks import build
    from export.contract.reader import read_model
    from export.exporter import export_model
    from screen.config import RunConfig
    from screen.input.decode import Decoder
    from screen.input.images import batch_rows
    from screen.input.mapping import map_columns
    from screen.input.rows import read_batches
    from screen.input.shards import find_shards
    from screen.output.result_table import make_table
    from screen.output.writer import ShardWriters
    from screen.run.screener import Screener

    folder = sample_shard(name, data, work / f"stages-{name}")
    model = work / f"stages-{name}.onnx"
    export_model(build(name), model, scale=1 / 255, resize="bilinear" if name == "mobilenet" else "none")
    exported, config = read_model(model), RunConfig(passes=PASSES, device="cpu", threads=1)
    shards, _ = find_shards(str(folder))
    columns = map_columns(shards, config, exported.contract)
    screener = Screener(exported, passes=PASSES, device="cpu", threads=1)
    engine = screener._engine
    decoder = Decoder(exported.contract, max_pixels=config.max_pixels, image_root=None, threads=1)
    size, rows = batch_rows(config, exported.contract), shards[0].rows

    def read() -> list[Any]:
        return list(read_batches(shards, columns, size))

    pieces = read()
    images = [decoder.decode(one) for one in pieces]
    scored = [screener.score(one.images) for one in images]

    def write() -> list[WrittenShard]:
        writers, finished = ShardWriters(work / f"stages-{name}-out", columns.kept_schema, {}), []
        for one, rows_of in zip(images, scored, strict=True):
            finished += list(writers.write(one.pieces, make_table(one, rows_of)))
        return finished

    taken = {
        "read": _cpu_seconds(read),
        "decode": _cpu_seconds(lambda: [decoder.decode(one) for one in pieces]),
        "trunk": _cpu_seconds(lambda: [engine._trunk.run(one.images) for one in images]),
        "passes": _cpu_seconds(lambda: [screener.score(one.images) for one in images]),
        "write": _cpu_seconds(write),
    }
    taken["head"] = max(0.0, taken.pop("passes") - taken["trunk"])
    decoder.close()
    plan = engine.plan
    return {
        "network": NETWORKS[name],
        "shape": SHAPES[name],
        "rows": rows,
        "seconds": {stage: seconds / rows for stage, seconds in taken.items()},
        "bytes_in": shards[0].size / rows,
        "bytes_out": write()[0].size / rows,
        "flops": plan.once_flops + PASSES * plan.pass_flops,
    }


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for a call of `work`: the minimum of `_REPEATS` calls after a warm-up."""
    work()
    taken = []
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def model_billion(stages: dict[str, Any]) -> dict[str, Any]:
    """Estimated cost of a billion images, from the cost of each stage per image and the assumptions in `ASSUMED`."""
    seconds = stages["seconds"]
    core_seconds = sum(seconds.values())
    node_images = ASSUMED["cores_a_node"] / core_seconds
    network_images = ASSUMED["network_bits_a_second"] / 8 / (stages["bytes_in"] + stages["bytes_out"])
    gpu_seconds = stages["flops"] / ASSUMED["gpu_flops_a_second"]
    beside = seconds["read"] + seconds["decode"] + seconds["write"]
    slowest = max(seconds, key=lambda stage: seconds[stage])
    return {
        "core_hours": _BILLION * core_seconds / 3600,
        "nights_of_a_node": _BILLION / node_images / 3600 / ASSUMED["night_hours"],
        "share": {stage: one / core_seconds for stage, one in seconds.items()},
        "bottleneck": slowest if node_images < network_images else "network",
        "network_use": node_images / network_images,
        "gpu_hours": _BILLION * gpu_seconds / 3600,
        "core_hours_beside_gpus": _BILLION * beside / 3600,
        "cores_a_gpu": beside / gpu_seconds,
        "terabytes_in": _BILLION * stages["bytes_in"] / 1e12,
        "terabytes_out": _BILLION * stages["bytes_out"] / 1e12,
        "shards": _BILLION // ASSUMED["rows_a_shard"],
        "megabytes_a_shard": ASSUMED["rows_a_shard"] * stages["bytes_in"] / 1e6,
    }


def plot(result: dict[str, Any], target: Path) -> None:
    """Plot the core hours of a billion images, by stage, for each network."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "oodscreen"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 2.8))
    names = list(result["stages"])
    left = [0.0] * len(names)
    for stage in ("read", "decode", "trunk", "head", "write"):
        shares = [result["billion"][name]["share"][stage] for name in names]
        axis.barh(names, shares, left=left, label=stage)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    for row, name in enumerate(names):
        axis.text(1.01, row, f"{result['billion'][name]['core_hours']:,.0f} core hours", va="center", fontsize=8)
    axis.set(xlim=(0, 1.3), xlabel=f"share of the core time of a billion images at T = {PASSES}")
    axis.legend(fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.22))
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Run all measurements, or repeat one, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--only", choices=["workers", "small", "lost", "stages"], help="repeat only this measurement")
    for option, kind in (("measure", int), ("model", Path), ("shards", Path), ("output", Path)):
        parser.add_argument(f"--{option}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--kill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure_run(options.model, options.shards, options.output, options.measure, options.kill)))
        return
    result: dict[str, Any] = json.loads(RESULT.read_text()) if options.only and RESULT.exists() else {}
    result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        measurements: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
            "workers": compare_workers,
            "small": compare_small,
            "lost": lose_worker,
            "stages": lambda data, work: {name: measure_stages(name, data, work) for name in NETWORKS},
        }
        for name, measure in measurements.items():
            if options.only in (None, name):
                result[name] = measure(options.data, work)
    result["assumed"] = ASSUMED
    result["billion"] = {name: model_billion(stages) for name, stages in result.get("stages", {}).items()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["billion"]:
        plot(result, RESULT.with_suffix(".svg"))


if __name__ == "__main__":
    main()
