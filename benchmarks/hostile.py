"""Measure the time and the memory that each hostile file costs a run.

    python -m benchmarks.hostile [--model model.onnx] [--results FILE]

The files are every image of `tests/hostile_images.py`, every Parquet file of `tests/screen/test_hostile.py`, and larger
files of up to 16 MB. A separate `oodscreen run` screens each file, together with a shard of one good image. Images are
resized, so that images of all sizes are decoded. The cost of a file is the time of the run minus the median time of
runs without a hostile file, and the peak memory of the process. The costs are written to
`benchmarks/results/hostile.json`; the exit code is 1 if a run crashes, hangs or fails, or if a cost exceeds its
limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hostile_files import LARGE_IMAGES, LARGE_SHARDS
from benchmarks.networks import export_article
from benchmarks.shard_mutations import valid_images
from tests.conftest import IMAGE_TYPE, write_shard
from tests.hostile_images import CASES, prepare_folder
from tests.screen.test_hostile import PARQUET

RESULTS = Path(__file__).parent / "results" / "hostile.json"
_OODSCREEN = Path(sys.executable).with_name("oodscreen")

LIMIT_SECONDS, LIMIT_MIB = 10.0, 1536
"""Maximum cost of a file of up to 16 MB: additional seconds of a run, and peak memory of the process in MiB."""

_EMPTY_RUNS = 7
"""Number of runs without a hostile file."""

_SECONDS = 300
"""Time limit of a run in seconds; a run that takes longer counts as hanging."""

_LAUNCHER = """
import json, os, signal, sys, time
started = time.monotonic()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(int(sys.argv[1]))
_, status, usage = os.wait4(child, 0)
print(json.dumps([time.monotonic() - started, os.waitstatus_to_exitcode(status), usage.ru_maxrss]), file=sys.stderr)
"""
"""Script of a small process that starts a run; the peak memory of a process includes that of its parent."""


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        bytes: size of the hostile image or shard; 0 if it is not a regular file.
        seconds: wall time minus the median of runs without a hostile file.
        peak_mib: peak memory of the process in MiB.
        exit_code: exit code; negative for a signal.
        statuses: number of rows per status, without the rows of the good shard.
    """

    bytes: int
    seconds: float
    peak_mib: int
    exit_code: int
    statuses: dict[str, int]

    @property
    def is_within_limits(self) -> bool:
        """Whether the run ended with the expected exit code, within the limits of time and memory."""
        return self.exit_code in (0, 2, 3) and self.seconds <= LIMIT_SECONDS and self.peak_mib <= LIMIT_MIB


def measure(model: Path, folder: Path, size: int, empty_seconds: float = 0.0) -> Cost:
    """Screen the subfolder `in` of a folder in a separate process.

    Raises:
        AssertionError: the run failed for an unknown reason.
    """
    options = ["-T", "1", "--device", "cpu", "--json"]
    if (folder / "images").exists():
        options += ["--image-root", str(folder / "images")]
    command = [str(_OODSCREEN), "run", str(model), str(folder / "in"), str(folder / "out"), "--go-on", *options]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, str(_SECONDS), *command], capture_output=True, text=True, check=True
    )
    *printed, last = done.stderr.splitlines()
    assert not any("error: Unexpected" in line for line in printed), done.stderr
    seconds, code, peak = json.loads(last)
    values = json.loads(done.stdout) if code >= 0 else {}
    statuses = dict(values.get("statuses", {}))
    if "ok" in statuses:
        statuses["ok"] -= 1  # the good shard
    return Cost(size, round(seconds - empty_seconds, 2), peak >> 10, code, {k: v for k, v in statuses.items() if v})


Case = tuple[str, str, Callable[[Path], int]]
"""Kind and name of a case, and a function that writes it into the folder with INPUT and returns its size in bytes."""


def cases() -> Iterator[Case]:
    """Kind, name and writer of every hostile file."""
    good = valid_images()[0]
    for name, case in CASES.items():

        def write_case(folder: Path, data: bytes | None = case.data, path: str | None = case.path) -> int:
            if path is not None:
                prepare_folder(folder / "images")
            images = pa.array([{"bytes": data, "path": path}], IMAGE_TYPE)
            pq.write_table(pa.table({"image": images, "id": ["x"]}), folder / "in" / "x.parquet")
            return len(data or b"")

        yield "images", name, write_case
    for name, (make, *_) in PARQUET.items():

        def write_parquet(folder: Path, make: Callable[[Path, bytes], object] = make) -> int:
            make(folder / "in", good)
            return _size(folder)

        yield "shards", name, write_parquet
    for name, image in LARGE_IMAGES.items():

        def write_image(folder: Path, image: Callable[[], bytes] = image) -> int:
            data = image()
            write_shard(folder / "in" / "x.parquet", [data])
            return len(data)

        yield "large images", name, write_image
    for name, shard in LARGE_SHARDS.items():

        def write_large(folder: Path, shard: Callable[[Path], object] = shard) -> int:
            shard(folder / "in" / "x.parquet")
            return _size(folder)

        yield "large shards", name, write_large


def _size(folder: Path) -> int:
    found = [path for path in (folder / "in").glob("*") if path.is_file() and path.name != "good.parquet"]
    return sum(path.stat().st_size for path in found)


def prepare(work: Path, number: int) -> Path:
    """Create a folder with a shard of one good image in its subfolder `in`."""
    folder = work / str(number)
    write_shard(folder / "in" / "good.parquet", [valid_images()[0]])
    return folder


def main() -> None:
    """Measure every case and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="export of a network that resizes images; default: a new one")
    parser.add_argument("--only", default="", help="part of the names to measure again; others keep their result")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the result")
    chosen = parser.parse_args()
    costs: dict[str, dict[str, Cost]] = {}
    kept = json.loads(chosen.results.read_text(encoding="utf-8"))["each"] if chosen.only else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = (chosen.model or export_article(work / "article.onnx", "pil-bilinear")).resolve()
        empty = [measure(model, prepare(work, -number), 0) for number in range(1, _EMPTY_RUNS + 1)]
        seconds = statistics.median(one.seconds for one in empty)
        for number, (kind, name, write) in enumerate(cases()):
            if chosen.only and chosen.only not in name and name in kept.get(kind, {}):
                costs.setdefault(kind, {})[name] = Cost(**kept[kind][name])
            else:
                size = write(prepare(work, number))
                costs.setdefault(kind, {})[name] = measure(model, work / str(number), size, seconds)
                print(f"{kind}: {name}: {costs[kind][name]}", file=sys.stderr, flush=True)
    every = {f"{kind}: {name}": cost for kind, some in costs.items() for name, cost in some.items()}
    beyond = [name for name, cost in every.items() if not cost.is_within_limits]
    result = {
        "limit_seconds": LIMIT_SECONDS,
        "limit_mib": LIMIT_MIB,
        "empty_run": {"seconds": seconds, "peak_mib": max(one.peak_mib for one in empty)},
        "files": len(every),
        "largest_bytes": max(cost.bytes for cost in every.values()),
        "most_seconds": max(cost.seconds for cost in every.values()),
        "most_mib": max(cost.peak_mib for cost in every.values()),
        "crashes": sum(cost.exit_code < 0 and cost.seconds < _SECONDS - seconds for cost in every.values()),
        "hangs": sum(cost.seconds >= _SECONDS - seconds for cost in every.values()),
        "beyond_limits": beyond,
        "cores": os.cpu_count(),
        "each": {kind: {name: asdict(cost) for name, cost in some.items()} for kind, some in costs.items()},
    }
    chosen.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=1))
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main()
