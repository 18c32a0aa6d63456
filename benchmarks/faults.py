"""Kill runs at random moments, resume them, and compare the results with those of an uninterrupted run.

    python -m benchmarks.faults [--kills 200] [--model model.onnx]

Each trial is a chain of runs in one OUTPUT: several runs are killed (SIGKILL) at random moments, and the last one
finishes. The files in OUTPUT must equal those of an uninterrupted run, and `oodscreen check` must find no problem. The
state after each kill is written to `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.networks import export_article
from screen.files.storage import find_stale_staging
from screen.output.lock import LOCK_NAME
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.record import RECORD_NAME

RESULTS = Path(__file__).parent / "results" / "faults.json"
_OODSCREEN = Path(sys.executable).with_name("oodscreen")
_ROWS = (90, 0, 40, 150, 1, 60, 120)
"""Number of rows of each shard."""


@dataclass(frozen=True)
class Kill:
    """The state of OUTPUT after a run was killed.

    Attributes:
        seconds: duration of the run in seconds.
        shards: number of shards in its manifest.
        aside: whether a stale staging file exists.
        unnamed: whether a finished result exists that is not in the manifest yet.
    """

    seconds: float
    shards: int
    aside: bool
    unnamed: bool


def write_input(folder: Path) -> Path:
    """Write seven shards of digits: one without rows, and an unreadable row in each shard of at least three rows."""
    with as_file(files("screen") / "demo_data" / "mnist-test.parquet") as path:
        images = [image["bytes"] for image in pq.read_table(path, columns=["image"])["image"].to_pylist()]
    start = 0
    folder.mkdir(parents=True)
    for index, rows in enumerate(_ROWS):
        encoded: list[bytes | None] = images[start : start + rows]
        if rows > 2:
            encoded[2] = [None, b"no image"][index % 2]
        start += rows
        pq.write_table(pa.table({"image": pa.array(encoded, pa.binary())}), folder / f"{index}.parquet")
    return folder


def command(model: Path, source: Path, output: Path) -> list[str]:
    """Command of a run with many small batches, so that kills hit many different states."""
    options = ["--passes", "20", "--batch-size", "16", "--device", "cpu", "--threads", "1"]
    return [str(_OODSCREEN), "run", str(model), str(source), str(output), *options]


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file by name, without the lock (empty) and the record of the run (with durations)."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK_NAME, RECORD_NAME))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run_to_the_end(model: Path, source: Path, output: Path) -> tuple[float, float]:
    """Run without interruption; returns the seconds until it holds OUTPUT, and the total seconds."""
    started = time.monotonic()
    running = subprocess.Popen(command(model, source, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not (output / LOCK_NAME).exists():
        time.sleep(0.002)
    held = time.monotonic() - started
    if running.wait() not in (0, 3):
        raise RuntimeError(f"an uninterrupted run ended with exit code {running.returncode}")
    return held, time.monotonic() - started


def kill_one(model: Path, source: Path, output: Path, moments: random.Random, seconds: tuple[float, float]) -> Kill:
    """Kill a run at a random moment; a run that ends earlier is repeated with an empty OUTPUT.

    Args:
        model: an exported file.
        source: INPUT.
        output: OUTPUT.
        moments: random generator of the moments; one in ten is before the run holds OUTPUT, the others after.
        seconds: seconds until OUTPUT is held, and total seconds, of an uninterrupted run.
    """
    while True:
        early = moments.random() < 0.1
        wait = moments.uniform(0, seconds[0]) if early else moments.uniform(0, seconds[1] - seconds[0])
        started = time.monotonic()
        running = subprocess.Popen(command(model, source, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not early and running.poll() is None and not _is_held_by(running.pid, output):
            time.sleep(0.001)
        time.sleep(wait)
        running.send_signal(signal.SIGKILL)
        if running.wait() == -signal.SIGKILL:
            return _read_state(output, time.monotonic() - started)
        shutil.rmtree(output)


def _is_held_by(process: int, output: Path) -> bool:
    holder = output / f"{LOCK_NAME}.holder"
    return holder.exists() and f"process {process} " in holder.read_text(encoding="utf-8")


def _read_state(output: Path, seconds: float) -> Kill:
    manifest = output / MANIFEST_NAME
    named = {json.loads(line).get("shard") for line in _whole_lines(manifest)} - {None}
    results = {path.relative_to(output).as_posix() for path in output.rglob("*.parquet")}
    return Kill(round(seconds, 3), len(named), bool(find_stale_staging(output)), bool(results - named))


def _whole_lines(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    yield from text.split("\n")[:-1]


def kill_and_compare(model: Path, kills: int, chain: int, seed: int, work: Path) -> list[Kill]:
    """Kill runs, resume them, and compare the results.

    Args:
        model: an exported file.
        kills: total number of kills.
        chain: number of kills in one OUTPUT before a run finishes.
        seed: seed of the moments.
        work: an empty folder.

    Returns:
        The state after each kill.

    Raises:
        AssertionError: the results of a resumed run differ from those of an uninterrupted run.
    """
    source = write_input(work / "in")
    seconds = run_to_the_end(model, source, work / "whole")
    expected = contents(work / "whole")
    moments = random.Random(seed)  # noqa: S311  moments, not secrets
    met: list[Kill] = []
    while len(met) < kills:
        output = work / f"out-{len(met)}"
        here = min(chain, kills - len(met))
        met += [kill_one(model, source, output, moments, seconds) for _ in range(here)]
        run_to_the_end(model, source, output)
        found = contents(output)
        assert found.keys() == expected.keys(), f"files {sorted(found.keys() ^ expected.keys())} differ"
        for name, content in expected.items():
            assert found[name] == content, f"{name} differs after {met[-chain:]}"
        checked = subprocess.run([_OODSCREEN, "check", output, "--input", source], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout
        shutil.rmtree(output)
    return met


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an export of the article's network; default: a new one")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--chain", type=int, default=8, help="kills in one OUTPUT before a run finishes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = chosen.model or export_article(Path(work) / "article.onnx")
        met = kill_and_compare(model.resolve(), chosen.kills, chosen.chain, chosen.seed, Path(work))
    result = {
        "kills": len(met),
        "chain": chosen.chain,
        "seed": chosen.seed,
        "shards": len(_ROWS),
        "rows": sum(_ROWS),
        "different_outputs": 0,
        "left_a_file_aside": sum(kill.aside for kill in met),
        "left_a_result_without_its_line": sum(kill.unnamed for kill in met),
        "killed_before_the_first_shard": sum(kill.shards == 0 for kill in met),
        "killed_after_the_last_shard": sum(kill.shards == len(_ROWS) for kill in met),
        "cores": os.cpu_count(),
        "each": [asdict(kill) for kill in met],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=1))


if __name__ == "__main__":
    main()
