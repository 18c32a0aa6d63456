"""Kill runs at random moments, resume them, and compare the results with those of an uninterrupted run.

    python -m benchmarks.faults [--kills 200] [--model model.onnx]

Each trial is a chain of runs in one OUTPUT: several runs are killed (SIGKILL) at random moments, and the last run
finishes. The files in OUTPUT must equal those of an uninterrupted run, and `oodscreen check` must find no problem.
INPUT also contains links to folders, a circle of links, a folder that cannot be listed, a shard with a false row
count, a page that takes 300 MiB in memory and a page with a wrong checksum; the log of each run is a file, a full disk,
closed, or a pipe without a reader. The state after each kill is written to `benchmarks/results/faults.json`.
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
from benchmarks.shard_mutations import encode_number
from benchmarks.trees import without_override
from screen.files.storage import find_stale_staging
from screen.output.history import HISTORY_FOLDER
from screen.output.locks.hold import LOCK_NAME
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME, UNREADABLE_SHARD
from screen.output.record import RECORD_NAME

RESULTS = Path(__file__).parent / "results" / "faults.json"
_OODSCREEN = Path(sys.executable).with_name("oodscreen")
_ROWS = (90, 0, 40, 150, 1, 60, 120)
"""Number of rows of each shard."""

_MORE_ROWS = {"linked/a.parquet": 30, "sums.parquet": 40}
"""Number of rows of the other shards that have results."""

_QUARANTINED = {"closed/", "false.parquet", "large.parquet"}
"""Names in INPUT that cannot be listed or read."""

_LOGS = ["2>/dev/null", "2>&-", "2> >(:)", *["2>/dev/full"] * Path("/dev/full").exists()]
"""Redirections of standard error: a file, closed, a pipe whose reader has ended, and a full disk, if there is one."""

_SECONDS = 120
"""Time limit of a run in seconds; a run usually takes a few seconds."""


@dataclass(frozen=True)
class Kill:
    """The state of OUTPUT after a run was killed.

    Attributes:
        seconds: duration of the run in seconds.
        shards: number of shards in the manifest.
        aside: whether a stale staging file exists.
        unnamed: whether a finished result exists that is not in the manifest yet.
        log: redirection of the standard error of the run.
    """

    seconds: float
    shards: int
    aside: bool
    unnamed: bool
    log: str


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


def add_obstacles(source: Path, outside: Path) -> None:
    """Add files, folders and links to INPUT that must not stop a run, hide a shard or get a score.

    Args:
        source: the folder of INPUT.
        outside: a folder that does not exist, to which a link leads.
    """
    images = pq.read_table(source / "0.parquet")["image"].combine_chunks()
    outside.mkdir()
    pq.write_table(pa.table({"image": images[:30]}), outside / "a.parquet")
    (source / "linked").symlink_to(outside, target_is_directory=True)
    (source / "circle").symlink_to(source, target_is_directory=True)
    (source / "closed").mkdir(mode=0)
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(pa.table({"image": images[:77]}), source / "false.parquet", **options)
    data = (source / "false.parquet").read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    old, new = encode_number(77), encode_number(78)
    (source / "false.parquet").write_bytes(data[:footer] + data[footer:].replace(b"\x16" + old, b"\x16" + new))
    large = pa.table({"image": [bytes(300 * 2**20)]})
    pq.write_table(large, source / "large.parquet", compression="zstd", use_dictionary=False)
    path = source / "sums.parquet"
    pq.write_table(pa.table({"image": images[:40]}), path, row_group_size=20, write_page_checksum=True, **options)
    chunk = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 50] ^= 1
    path.write_bytes(content)


def command(model: Path, source: Path, output: Path) -> list[str]:
    """Command of a run with many small batches, so that kills hit many different states."""
    options = ["--passes", "20", "--batch-size", "16", "--device", "cpu", "--threads", "1"]
    return [str(_OODSCREEN), "run", str(model), str(source), str(output), *options]


def _start(model: Path, source: Path, output: Path, log: str) -> subprocess.Popen[bytes]:
    """Start a run with a redirection of standard error; the process of the shell becomes the process of the run."""
    words = [*without_override(), *command(model, source, output)]
    return subprocess.Popen(["bash", "-c", f'exec "$@" {log}', "-", *words], stdout=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file by name, except the lock, the record and the history (the last two contain times)."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    left_out = {LOCK_NAME, RECORD_NAME, HISTORY_FOLDER}
    return {name: path.read_bytes() for name, path in files.items() if name.split("/")[0] not in left_out}


def run_to_the_end(model: Path, source: Path, output: Path, log: str) -> tuple[float, float]:
    """Run without interruption; returns the seconds until the run holds OUTPUT, and the total seconds."""
    started = time.monotonic()
    running = _start(model, source, output, log)
    while running.poll() is None and not (output / LOCK_NAME).exists():
        time.sleep(0.002)
    held = time.monotonic() - started
    if running.wait(_SECONDS) != 3:
        raise RuntimeError(f"an uninterrupted run ended with exit code {running.returncode}")
    return held, time.monotonic() - started


def kill_one(model: Path, source: Path, output: Path, moments: random.Random, seconds: tuple[float, float]) -> Kill:
    """Kill a run at a random moment; a run that ends earlier is repeated with an empty OUTPUT.

    Args:
        model: an exported file.
        source: INPUT.
        output: OUTPUT.
        moments: random generator of the moments; one in ten is before the run holds OUTPUT, the others are after.
        seconds: for an uninterrupted run, the seconds until it holds OUTPUT, and the total seconds.
    """
    while True:
        early = moments.random() < 0.1
        wait = moments.uniform(0, seconds[0]) if early else moments.uniform(0, seconds[1] - seconds[0])
        started = time.monotonic()
        log = moments.choice(_LOGS)
        running = _start(model, source, output, log)
        while not early and running.poll() is None and not _is_held_by(running.pid, output):
            time.sleep(0.001)
        time.sleep(wait)
        running.send_signal(signal.SIGKILL)
        if running.wait(_SECONDS) == -signal.SIGKILL:
            return _read_state(output, time.monotonic() - started, log)
        shutil.rmtree(output)


def _is_held_by(process: int, output: Path) -> bool:
    holder = output / f"{LOCK_NAME}.holder"
    return holder.exists() and f"process {process} " in holder.read_text(encoding="utf-8")


def _read_state(output: Path, seconds: float, log: str) -> Kill:
    manifest = output / MANIFEST_NAME
    named = {json.loads(line).get("shard") for line in _whole_lines(manifest)} - {None}
    results = {path.relative_to(output).as_posix() for path in output.rglob("*.parquet")}
    return Kill(round(seconds, 3), len(named), bool(find_stale_staging(output)), bool(results - named), log)


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
    add_obstacles(source, work / "outside")
    seconds = run_to_the_end(model, source, work / "whole", _LOGS[0])
    expected = contents(work / "whole")
    _check_whole(work / "whole")
    moments = random.Random(seed)  # noqa: S311  moments, not secrets
    met: list[Kill] = []
    while len(met) < kills:
        output = work / f"out-{len(met)}"
        here = min(chain, kills - len(met))
        met += [kill_one(model, source, output, moments, seconds) for _ in range(here)]
        run_to_the_end(model, source, output, moments.choice(_LOGS))
        found = contents(output)
        assert found.keys() == expected.keys(), f"files {sorted(found.keys() ^ expected.keys())} differ"
        for name, content in expected.items():
            assert found[name] == content, f"{name} differs after {met[-chain:]}"
        check = [*without_override(), str(_OODSCREEN), "check", str(output), "--input", str(source)]
        checked = subprocess.run(check, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout
        shutil.rmtree(output)
    (source / "closed").chmod(0o700)
    return met


def _check_whole(output: Path) -> None:
    """Compare the results of an uninterrupted run with what `write_input` and `add_obstacles` wrote."""
    listed = pq.read_table(output / QUARANTINE_NAME).to_pylist()
    lost = {row["shard"] for row in listed if row["status"] == UNREADABLE_SHARD}
    lists_all = os.geteuid() == 0 and not without_override()
    assert lost == _QUARANTINED - ({"closed/"} if lists_all else set()), lost
    rows = {f"{index}.parquet": count for index, count in enumerate(_ROWS)} | _MORE_ROWS
    found = {path.relative_to(output).as_posix(): pq.read_metadata(path).num_rows for path in output.rglob("*.parquet")}
    assert found == rows, found
    statuses = pq.read_table(output / "sums.parquet")["status"].to_pylist()
    assert statuses[20:] == ["unreadable_page"] * 20, statuses


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
        "shards": len(_ROWS) + len(_MORE_ROWS),
        "rows": sum(_ROWS) + sum(_MORE_ROWS.values()),
        "quarantined": sorted(_QUARANTINED),
        "different_outputs": 0,
        "hangs": 0,
        "kills_with_a_dead_log": sum(kill.log != _LOGS[0] for kill in met),
        "left_a_file_aside": sum(kill.aside for kill in met),
        "left_a_result_without_its_line": sum(kill.unnamed for kill in met),
        "killed_before_the_first_shard": sum(kill.shards == 0 for kill in met),
        "killed_after_the_last_shard": sum(kill.shards == len(_ROWS) + len(_MORE_ROWS) for kill in met),
        "cores": os.cpu_count(),
        "each": [asdict(kill) for kill in met],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=1))


if __name__ == "__main__":
    main()
