"""Memory, time and page size of a report, for different numbers of rows.

    python -m benchmarks.report [--rows 1000000]

The project's own writer writes the rows in the real schema, with a manifest, a quarantine table and input shards of
real digits. Their scores are drawn at random, because the cost of a report does not depend on their values. The
measurements are written to `benchmarks/results/report.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.throughput import run_process
from screen.columns import DISTANCES
from screen.config import RESULT_FORMAT, fingerprint
from screen.decide.policy import ScoredRows
from screen.decide.row_sets import rate_interval, threshold_rank
from screen.decide.rules.rule import MOST_UNUSUAL, Decision, Reason
from screen.engine.statistics import PassSummary
from screen.input.decode import ImageBatch
from screen.input.mapping import ColumnMapping
from screen.input.row_batch import RowBatch
from screen.input.rows import read_batches
from screen.input.shards import find_shards
from screen.output.manifest import Manifest
from screen.output.quarantine import write_quarantine
from screen.output.record import RunRecord, TargetRate
from screen.output.result_table import make_table
from screen.output.writer import ShardWriters

RESULTS = Path(__file__).parent / "results" / "report.json"
REVIEW_RATE = 0.02

_OODSCREEN = Path(sys.executable).with_name("oodscreen")
_RANKED = 10_000
_CLASSES = 10
_BAD_SHARE = 0.001


@dataclass(frozen=True)
class Measurement:
    """Measurements of one report.

    Attributes:
        rows: number of result rows.
        shards: number of result shards.
        result_mb: size of all result shards in 10^6 bytes.
        seconds: wall time of the whole process in seconds.
        peak_mib: peak resident memory of the process in MiB.
        page_mb: size of the page in 10^6 bytes.
    """

    rows: int
    shards: int
    result_mb: float
    seconds: float
    peak_mib: int
    page_mb: float


def write_input(folder: Path, rows: int, shard_rows: int) -> None:
    """Write shards of the bundled test digits, repeated, with a unique id for each row."""
    with as_file(files("screen") / "demo_data" / "mnist-test.parquet") as path:
        images = pq.read_table(path, columns=["image"])["image"].combine_chunks().field("bytes")
    folder.mkdir(parents=True)
    for start in range(0, rows, shard_rows):
        numbers = np.arange(start, min(start + shard_rows, rows))
        columns = {
            "id": pa.array([f"row-{number:08d}" for number in numbers.tolist()]),
            "image": images.take(pa.array(numbers % len(images))),
        }
        name = f"shard-{start // shard_rows:04d}.parquet"
        pq.write_table(pa.table(columns), folder / name, row_group_size=1000, compression="zstd")


def write_results(source: Path, output: Path, *, seed: int = 0, class_names: tuple[str, ...] = ()) -> None:
    """Write results with random scores for all shards of INPUT, as from a calibrated run with ten classes."""
    rng = np.random.default_rng(seed)
    identity: dict[str, Any] = {
        "image_column": "image", "id_column": None, "keep": [], "image_root": None, "max_pixels": 2**26,
        "passes": 100, "seed": seed, "masks": "shared", "flag_if": f"p_value <= {REVIEW_RATE}", "model": "0" * 64,
        "mask_algorithm": "drawn", "calibration": "1" * 64, "adaptive": None, "result_format": RESULT_FORMAT,
    }  # fmt: skip
    shards, _ = find_shards(str(source))
    manifest = Manifest(output, identity, force="all")
    manifest.start(shards)
    columns = ColumnMapping("image", None, (), pa.schema([]))
    writers = ShardWriters(output, columns.kept_schema, identity)
    for pieces in read_batches(shards, columns, 20_000):
        for written in writers.write(tuple(pieces), _draw_table(tuple(pieces), rng)):
            manifest.finish_shard(written)
    entries = manifest.entries()
    write_quarantine(output, entries, [])
    rank = threshold_rank(_RANKED, REVIEW_RATE)
    RunRecord(
        configuration=fingerprint(identity),
        model="drawn.onnx",
        output_kind="softmax",
        class_names=class_names,
        image_shape=(28, 28, 1),
        promise=TargetRate(
            REVIEW_RATE, _RANKED, rank, -float(np.log(REVIEW_RATE)), *rate_interval(_RANKED, REVIEW_RATE)
        ),
        device="none, scores were drawn",
        finished="2026-01-01T03:00:00+00:00",
        seconds=1.0,
        stages=(("read", 0.5), ("score", 1.0)),
        shards=len(entries),
        rows=sum(entry.rows for entry in entries),
    ).write(output)
    manifest.finish()


def measure(results: Path, page: Path, *more: str) -> Measurement:
    """Write the page in a separate process, and measure it."""
    _, seconds, memory = run_process([str(_OODSCREEN), "report", str(results), "-o", str(page), *more])
    shards = sorted(results.glob("*.parquet"))
    return Measurement(
        rows=sum(pq.read_metadata(shard).num_rows for shard in shards),
        shards=len(shards),
        result_mb=round(sum(shard.stat().st_size for shard in shards) / 1e6, 1),
        seconds=round(seconds, 1),
        peak_mib=round(memory),
        page_mb=round(page.stat().st_size / 1e6, 2),
    )


def _draw_table(pieces: tuple[RowBatch, ...], rng: np.random.Generator) -> pa.Table:
    rows = sum(piece.count for piece in pieces)
    readable = rng.random(rows) >= _BAD_SHARE
    failures = {int(row): ("decode_failed", "not an image of a known format") for row in np.flatnonzero(~readable)}
    batch = ImageBatch(pieces, np.zeros((0, 28, 28, 1), np.uint8), readable, failures)
    scores = _draw_scores(int(readable.sum()), rng)
    flag = scores["p_value"] <= REVIEW_RATE
    reasons: list[tuple[Reason, ...]] = [()] * len(flag)
    for row in np.flatnonzero(flag).tolist():
        reasons[row] = (
            Reason(f"p_value <= {REVIEW_RATE}", f"p_value {scores['p_value'][row]:.4g} <= {REVIEW_RATE}"),
            Reason(f"{MOST_UNUSUAL}entropy", f"{MOST_UNUSUAL}entropy {scores['entropy'][row]:.4g}"),
        )
    passes = np.full(len(flag), 100, np.int32)
    summary = PassSummary(passes, scores["mean"], scores["std"], scores["largest_std"])
    return make_table(batch, ScoredRows(summary, scores, Decision(flag, reasons)))


def _draw_scores(rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    p_value = (1 + rng.integers(0, _RANKED, rows)) / (_RANKED + 1)
    mean = rng.gamma(0.05 + 0.4 * (1 - p_value[:, None]) ** 8, size=(rows, _CLASSES)) + 1e-6
    mean = (mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)
    std = np.sqrt(mean * (1 - mean) * rng.uniform(0.05, 0.3, (rows, 1))).astype(np.float32)
    entropy = -np.sum(mean * np.log(mean), axis=1)
    prediction = mean.argmax(axis=1).astype(np.int32)
    every = np.arange(rows)
    expected = entropy * rng.uniform(0.6, 1, rows).astype(np.float32)
    return {
        "prediction": prediction,
        "confidence": mean[every, prediction],
        "mean": mean,
        "std": std,
        "largest_std": std.max(axis=1),
        "entropy": entropy,
        "expected_entropy": expected,
        "mutual_information": entropy - expected,
        "variation_ratio": 1 - mean[every, prediction],
        "prediction_std": std[every, prediction],
        "skewness": rng.normal(size=rows).astype(np.float32),
        "kurtosis": rng.normal(size=rows).astype(np.float32),
        "energy": rng.normal(-8, 2, rows).astype(np.float32),
        **{name: rng.gamma(20, 0.05, rows).astype(np.float32) for name in DISTANCES},
        "ood_score": -np.log(p_value),
        "p_value": p_value,
    }


def main() -> None:
    """Run the benchmark and write the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of rows of the largest results")
    rows = parser.parse_args().rows
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for share in (100, 10, 1):
            work = Path(name) / str(share)
            write_input(work / "in", rows // share, 20_000)
            write_results(work / "in", work / "out")
            for title, more in (("default", ()), ("top 1000", ("--top", "1000"))):
                found = measure(work / "out", work / "report.html", *more)
                measured.setdefault(title, []).append(asdict(found))
                print(title, found, flush=True)
        write_results(work / "in", work / "earlier", seed=1)
        found = measure(work / "out", work / "report.html", "--against", str(work / "earlier"))
        measured["against an earlier run"] = [asdict(found)]
        print("against", found, flush=True)
    RESULTS.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
