"""Measure the guarantees of a calibration: the target rate, the effect of early exit, and the cost of distances.

    python -m benchmarks.promises [--data DIR] [--work DIR] [--only-review-rates]

In: DATA/mnist/{train,valid,test}; the network of `benchmarks.detection`, seed 1. Out: benchmarks/results/promises.json.

  target rate  random halvings of the test rows: calibrate on one half, count flags in the other.
  adaptive     `oodscreen run` as a process at T = 500, with and without --adaptive: passes, flags, wall time; for the
               test rows, and for several copies of their shards, so that start-up hardly matters.
  distance     the same run with and without a calibration; MobileNetV2's engine with and without a reference set.

The process runs in an installation without extras, because pyarrow imports pandas if pandas is installed.

--only-review-rates measures the target rate again, and keeps all other parts of the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.detection import screen, train
from benchmarks.review_rates import count_review_rates
from benchmarks.sets import read_folder
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.decide.reference import REFERENCE_NUMBERS, REFERENCE_ROWS
from screen.engine.device.choice import choose_device
from screen.engine.distance import DEFAULT_METRICS, fit_distance
from screen.engine.graph.plan import plan_engine
from screen.engine.masks import identify_rows
from screen.engine.passes import PassEngine
from screen.input.images import batch_rows
from screen.run.calibration.calibrate import run_calibration
from screen.run.progress import LogLines

RESULT = Path(__file__).parent / "results" / "promises.json"
PASSES = 500
TURNS = 3
COPIES = 5
"""Number of copies of the test rows in the long run."""


def calibrate(model: Path, data: Path, work: Path, rate: float, passes: int) -> Path:
    """Path of a calibration on the validation rows, with training rows as the reference set."""
    path = work / f"promises-{passes}-{rate}.calibration"
    config = RunConfig(passes=passes, device="cpu")
    wanted = CalibrationConfig(rate, reference=str(data / "mnist" / "train"))
    run_calibration(model, str(data / "mnist" / "valid"), path, config, wanted, LogLines())
    return path


def install(work: Path) -> Path:
    """Install oodscreen in a separate environment, with compiled modules as for a user; returns the command."""
    project, home = Path(__file__).parents[1], work / "plain-install"
    venv.create(home, with_pip=True, clear=True)
    with TemporaryDirectory() as folder:  # a build writes files into the source folder
        copy = shutil.copytree(project, Path(folder) / "source", ignore=shutil.ignore_patterns(".*", "build"))
        needs = [str(copy), "--constraint", str(project / "constraints.txt")]
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *needs], check=True)
    return home / "bin" / "oodscreen"


def run(command: Path, model: Path, source: Path, output: Path, *options: str) -> tuple[float, pa.Table]:
    """Wall time of `oodscreen run` over the test rows, and its results."""
    arguments = ["run", str(model), str(source), str(output), "--device", "cpu", *options]
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([str(command), *arguments], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return seconds, read(output)


def read(output: Path) -> pa.Table:
    """All results of a run."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(output.glob("[!_]*.parquet"))])


def copy_shards(source: Path, folder: Path) -> Path:
    """A folder with several links to each shard."""
    folder.mkdir(exist_ok=True)
    for shard in source.glob("*.parquet"):
        for copy in range(COPIES):
            link = folder / f"{copy}-{shard.name}"
            link.unlink(missing_ok=True)
            link.symlink_to(shard.resolve())
    return folder


def measure_review_rates(model: Path, data: Path, work: Path) -> list[dict[str, Any]]:
    """Flag rates of fresh rows over random halvings of the test rows (see `benchmarks.review_rates`)."""
    test = data / "mnist" / "test"
    columns = screen(model, test, work / "scored", calibrate(model, data, work, 0.02, 100))
    return count_review_rates(columns, np.array(identify_rows(read_folder(test)[0]), np.uint64))


def measure_adaptive(command: Path, model: Path, data: Path, work: Path) -> list[dict[str, Any]]:
    """Compare full runs with early exit, at two review rates, with flags by a calibration or by the entropy alone."""
    test = data / "mnist" / "test"
    many = copy_shards(test, work / "many")
    measured = []
    for rate in (0.01, 0.05):
        by_calibration = ["--calibration", str(calibrate(model, data, work, rate, PASSES))]
        first = compare(command, model, test, work, *by_calibration)
        limit = float(np.quantile(np.asarray(read(work / "full")["entropy"]), 1 - rate))
        by_entropy = ["-T", str(PASSES), "--flag-if", f"entropy > {limit:.6f}"]
        measured += [
            {"rate": rate, "by": "calibration", **first},
            {"rate": rate, "by": "entropy", **compare(command, model, test, work, *by_entropy)},
            {"rate": rate, "by": "calibration", **compare(command, model, many, work, *by_calibration, turns=1)},
        ]
    return measured


def compare(command: Path, model: Path, source: Path, work: Path, *options: str, turns: int = TURNS) -> dict[str, Any]:
    """Medians of all passes and of --adaptive, run alternately, so that other load affects both."""
    seconds: dict[str, list[float]] = {"full": [], "early": []}
    for _ in range(turns):
        whole, full = run(command, model, source, work / "full", *options)
        stopped, early = run(command, model, source, work / "early", *options, "--adaptive")
        seconds["full"].append(whole)
        seconds["early"].append(stopped)
    flag, flag_early = np.asarray(full["flag"]), np.asarray(early["flag"])
    measured = {
        "rows": len(full),
        "fewer_passes": PASSES / float(np.mean(np.asarray(early["passes"]))),
        "flags": int(flag.sum()),
        "lost": int(np.sum(flag & ~flag_early)),
        "added": int(np.sum(flag_early & ~flag)),
        "seconds": round(statistics.median(seconds["full"]), 2),
        "seconds_adaptive": round(statistics.median(seconds["early"]), 2),
    }
    print(measured, flush=True)
    return measured


def measure_distance(command: Path, model: Path, data: Path, work: Path) -> dict[str, Any]:
    """Cost of the distances in a run, and with a MobileNet-sized trunk."""
    calibration, test = calibrate(model, data, work, 0.01, PASSES), data / "mnist" / "test"
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(TURNS):  # alternately, so that other load affects both
        times["without"].append(run(command, model, test, work / "plain", "-T", str(PASSES))[0])
        times["with"].append(run(command, model, test, work / "distance", "--calibration", str(calibration))[0])
    article = {name: round(min(some), 2) for name, some in times.items()}
    print(article, flush=True)
    return {"article": article, "mobilenet": measure_mobilenet(work)}


def measure_mobilenet(work: Path) -> dict[str, float]:
    """Seconds per batch of MobileNetV2's engine, with and without a reference set of `calibrate`'s size."""
    from benchmarks.networks import build
    from export.contract.reader import read_model
    from export.exporter import export_model

    path = work / "mobilenet.onnx"
    if not path.exists():
        export_model(build("mobilenet"), path, scale=1 / 255)
    model = read_model(path)
    rows = batch_rows(RunConfig(), model.contract)
    images = np.random.default_rng(0).integers(0, 256, (rows, *model.contract.image_shape), dtype=np.uint8)
    device = choose_device("cpu", 0)
    features = plan_engine(model, features=True).features
    size = features.size
    reference = np.random.default_rng(1).random((min(REFERENCE_ROWS, REFERENCE_NUMBERS // size), size), np.float32)
    distances = tuple(
        fit_distance(f"{group}_distance", reference, columns, device, DEFAULT_METRICS[f"{group}_distance"])
        for group, columns in features.groups.items()
    )
    engines = {
        name: PassEngine(plan_engine(model, features=bool(some)), passes=50, seed=0, device=device, distances=some)
        for name, some in {"without": (), "with": distances}.items()
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(12):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.summarize(images)
            times[name].append(time.perf_counter() - started)
    seconds = {name: round(min(some), 3) for name, some in times.items()}
    print(seconds, flush=True)
    return {"rows": rows, "features": size, "bank_rows": len(reference), **seconds}


def measure_processes(model: Path, data: Path, work: Path) -> dict[str, Any]:
    """Measure early exit and the cost of distances; the result includes the settings of the measurement."""
    command = install(work)
    return {
        "adaptive": measure_adaptive(command, model, data, work),
        "distance": measure_distance(command, model, data, work),
        "rows": len(read(work / "scored")),
        "passes": PASSES,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/detection"))
    parser.add_argument("--only-review-rates", action="store_true", help="measure only the target rate again")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = train(options.data, options.work, seed=1)
    result = {"review_rates": measure_review_rates(model, options.data, options.work)}
    if options.only_review_rates:
        result = {**json.loads(RESULT.read_text()), **result}
    else:
        result |= measure_processes(model, options.data, options.work)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
