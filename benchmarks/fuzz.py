"""Fuzz the screener with mutated images, Parquet files and folders: no crash, no hang, no lost row, no wrong score.

    python -m benchmarks.fuzz [--images 10000] [--files 500] [--trees 100] [--model model.onnx]

Hypothesis draws mutations of the images of `tests/hostile_images.py` and of small shards. Images are decoded and shards
are screened in separate processes with a time limit, which detects crashes and hangs. Every mutated shard is screened
by a whole run, together with a good shard, and the results must pass `oodscreen check`. If a mutation is of a
kind that can be detected (row counts, page sizes, dictionaries, checksums), each row with the status `ok` must have its
scores of the unmutated shard. Random folders have links, circles of links and folders that cannot be listed
(`benchmarks/trees.py`). The outcomes are written to `benchmarks/results/fuzz.json`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.mutations import mutate_images
from benchmarks.networks import export_article
from benchmarks.shard_mutations import MutatedShard, good_shard, mutate_shards
from benchmarks.trees import without_override
from export.contract.reader import read_model
from export.errors import InputRefused
from screen.columns import STATUSES
from screen.config import RunConfig
from screen.input.decode import Decoder
from screen.input.row_batch import RowBatch
from screen.input.shards import find_shards
from screen.output.check import check_results
from screen.run.runner import run_screening
from tests.conftest import IMAGE_TYPE, Recorder

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
_IMAGES, _FILES = 1000, 25
"""Number of images and of files per process."""

_NAME = "mutated.parquet"

_PROCESSES = multiprocessing.get_context("spawn")
_SECONDS = 120
"""Time limit of a process in seconds; a process usually takes a few seconds."""


def decode_many(model: Path, images: list[bytes], results: multiprocessing.SimpleQueue[dict[str, int]]) -> None:
    """Decode images in this process, and put the number of images per status into the queue."""
    faulthandler.enable()
    decoder = Decoder(read_model(model).contract, max_pixels=2**24, image_root=None, threads=2)
    column = pa.array([{"bytes": data, "path": None} for data in images], IMAGE_TYPE)
    ids = tuple(map(str, range(len(images))))
    shard = object()
    piece = RowBatch(shard, 0, len(images), column, ids, pa.table({}), "", True)  # type: ignore[arg-type]
    batch = decoder.decode([piece])
    decoder.close()
    if len(batch.images) + len(batch.failures) != len(images):
        raise AssertionError(f"{len(images)} images in, {len(batch.images)} and {len(batch.failures)} failures out")
    statuses = Counter(status for status, _ in batch.failures.values())
    if statuses.keys() - STATUSES.keys():
        raise AssertionError(f"unknown statuses {statuses}")
    results.put({"ok": len(batch.images), **statuses})


def fuzz_images(model: Path, count: int, seed: int, keep: Path) -> dict[str, int]:
    """Decode mutated images, a thousand per process; returns the number of images per status.

    Raises:
        AssertionError: a process crashed, hung or lost a row; the images of the process are written to `keep`.
    """
    total: Counter[str] = Counter()
    images = mutate_images(count, seed)
    for start in range(0, count, _IMAGES):
        batch = images[start : start + _IMAGES]
        results: multiprocessing.SimpleQueue[dict[str, int]] = _PROCESSES.SimpleQueue()
        process = _PROCESSES.Process(target=decode_many, args=(model, batch, results))
        process.start()
        process.join(_SECONDS)
        if process.exitcode != 0:
            process.kill()
            keep.mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(batch):
                (keep / f"image-{start + number}").write_bytes(data)
            raise AssertionError(f"decoding ended with {process.exitcode}; the images are in {keep}")
        total.update(results.get())
    return dict(sorted(total.items()))


def screen_one(model: Path, folder: Path, mutated: MutatedShard) -> str:
    """Screen a folder with one good and one mutated shard; returns the outcome."""
    config = RunConfig(passes=1, device="cpu", threads=1)
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "good.parquet").write_bytes(good_shard())
    (folder / "in" / _NAME).write_bytes(mutated.data)
    try:
        summary = run_screening(model, str(folder / "in"), folder / "out", config, Recorder())
    except InputRefused:  # the mutated schema does not fit; the run must refuse it before anything is written
        if (folder / "out").exists():
            raise AssertionError("refused, but something was written") from None
        return "refused"
    problems = check_results(folder / "out", str(folder / "in")).problems
    lost = {shard.name for shard in summary.unreadable}
    rows = sum(shard.rows for shard in find_shards(str(folder / "in"))[0] if shard.name not in lost)
    if problems or summary.rows != rows:
        raise AssertionError(f"{summary.rows} of {rows} rows; {problems}")
    if summary.unreadable:
        return "unreadable"
    return "damaged" if "unreadable_page" in summary.statuses else "read"


def scores_of(results: Path) -> dict[int, tuple[float, ...]]:
    """Means of the rows with the status `ok`, by their position; none if the shard has no result."""
    if not results.exists():
        return {}
    table = pq.read_table(results, columns=["status", "mean"])
    rows = zip(table["status"].to_pylist(), table["mean"].to_pylist(), strict=True)
    return {position: tuple(mean) for position, (status, mean) in enumerate(rows) if status == "ok"}


def screen_many(model: Path, shards: list[tuple[str, MutatedShard]], work: Path) -> None:
    """Screen mutated shards of some kinds one by one; `work` contains the current shard, then the outcomes."""
    faulthandler.enable()
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    originals: dict[bytes, dict[int, tuple[float, ...]]] = {}
    for kind, mutated in shards:
        if mutated.trusted is not None and mutated.original not in originals:
            screen_one(model, work, MutatedShard(mutated.original, mutated.original))
            originals[mutated.original] = scores_of(work / "out" / _NAME)
            shutil.rmtree(work)
        outcomes[kind][screen_one(model, work, mutated)] += 1
        if mutated.trusted is not None:
            true = originals[mutated.original]
            for position, mean in scores_of(work / "out" / _NAME).items():
                if position not in mutated.trusted or mean != true.get(position):
                    raise AssertionError(f"{kind}: row {position} is silently wrong")
        shutil.rmtree(work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    work.mkdir()
    (work / "outcomes").write_text(json.dumps({"outcomes": outcomes, "peak_mib": peak}), encoding="utf-8")


def fuzz_files(model: Path, count: int, seed: int, work: Path, keep: Path) -> tuple[dict[str, dict[str, int]], int]:
    """Screen mutated shards, `_FILES` per process.

    Returns:
        The number of shards per kind and outcome, and the peak memory of a process in MiB.

    Raises:
        AssertionError: a process crashed, hung, lost a row or gave a damaged row wrong scores; its shard is in `keep`.
    """
    total: dict[str, Counter[str]] = defaultdict(Counter)
    peak = 0
    shards = [(kind, shard) for kind, some in mutate_shards(count, seed).items() for shard in some]
    for start in range(0, len(shards), _FILES):
        folder = work / f"files {start}"
        process = _PROCESSES.Process(target=screen_many, args=(model, shards[start : start + _FILES], folder))
        process.start()
        process.join(_SECONDS)
        if process.exitcode != 0:
            process.kill()
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "in" / _NAME, keep / f"{start}.parquet")
            raise AssertionError(f"a run ended with {process.exitcode}; the shard is in {keep}")
        found = json.loads((folder / "outcomes").read_text(encoding="utf-8"))
        for kind, counts in found["outcomes"].items():
            total[kind].update(counts)
        peak = max(peak, found["peak_mib"])
    return {kind: dict(sorted(counts.items())) for kind, counts in total.items()}, peak


def fuzz_trees(model: Path, count: int, seed: int, work: Path) -> dict[str, int]:
    """Screen random folders with links and folders that cannot be listed, in a process without root's permissions.

    Raises:
        CalledProcessError: a run crashed, lost a shard or scored a shard twice.
    """
    command = [*without_override(), sys.executable, "-m", "benchmarks.trees", str(model), str(work / "trees")]
    done = subprocess.run(
        [*command, "--trees", str(count), "--seed", str(seed)],
        check=True,
        stdout=subprocess.PIPE,
        timeout=_SECONDS + count,
    )
    result: dict[str, int] = json.loads(done.stdout)
    return result


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an export of the article's network; default: a new one")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the result")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for failing inputs")
    chosen = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        model = (chosen.model or export_article(Path(work) / "article.onnx")).resolve()
        images = fuzz_images(model, chosen.images, chosen.seed, chosen.keep)
        files, peak = fuzz_files(model, chosen.files, chosen.seed, Path(work), chosen.keep)
        trees = fuzz_trees(model, chosen.trees, chosen.seed, Path(work))
    by_outcome: Counter[str] = Counter()
    for counts in files.values():
        by_outcome.update(counts)
    result = {
        "mutations": f"hypothesis {version('hypothesis')}",
        "seed": chosen.seed,
        "images": chosen.images,
        "images_by_status": images,
        "files": chosen.files,
        "files_by_outcome": dict(sorted(by_outcome.items())),
        "files_by_kind": files,
        "peak_mib": peak,
        "trees": trees,
        "crashes": 0,
        "hangs": 0,
        "lost_rows": 0,
        "silently_wrong": 0,
        "seconds": round(time.monotonic() - started),
    }
    chosen.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
