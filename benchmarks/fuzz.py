"""Fuzz the screener with mutated images and Parquet files: no crash, no hang, no lost row.

    python -m benchmarks.fuzz [--images 10000] [--files 500] [--model model.onnx]

Hypothesis draws mutations of the images of `tests/hostile_images.py` and of small shards. Images are decoded and shards
are screened in separate processes with a time limit, which detects crashes and hangs. Every mutated shard is screened
by a whole run, together with a good shard, and the results must pass `oodscreen check`. The outcomes are written to
`benchmarks/results/fuzz.json`.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import multiprocessing
import shutil
import tempfile
import time
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.networks import export_article
from export.contract.reader import read_model
from export.errors import InputRefused
from screen.columns import STATUSES
from screen.config import RunConfig
from screen.input.decode import Decoder
from screen.input.rows import RowBatch
from screen.input.shards import find_shards
from screen.output.check import check_results
from screen.run.runner import run_screening
from tests.conftest import IMAGE_TYPE, Recorder
from tests.hostile_images import CASES

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
_IMAGES, _FILES = 1000, 25
"""Number of images and of files per process."""

_PROCESSES = multiprocessing.get_context("spawn")
_SECONDS = 120
"""Time limit of a process in seconds; it usually takes a few."""

Edit = tuple[str, float, bytes]
"""Kind of the edit, its position as a share of the length, and its bytes."""

_INTERESTING = [b"\0", b"\x7f", b"\x80", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"]
_EDITS = st.tuples(
    st.sampled_from(["flip", "put", "insert", "cut", "repeat", "end"]),
    st.integers(0, 10**6).map(lambda number: number * 0.6180339887 % 1),  # uniform, without a preference for the ends
    st.sampled_from(_INTERESTING) | st.binary(min_size=1, max_size=12),
)


def edit(data: bytes, edits: list[Edit]) -> bytes:
    """Apply edits in order."""
    for kind, share, new in edits:
        start = int(share * len(data))
        if kind == "flip":
            data = data[:start] + bytes(byte ^ new[0] for byte in data[start : start + 1]) + data[start + 1 :]
        elif kind == "put":
            data = data[:start] + new + data[start + len(new) :]
        elif kind == "insert":
            data = data[:start] + new + data[start:]
        elif kind == "cut":
            data = data[:start] + data[start + 1 + new[0] % 64 :]
        elif kind == "repeat":
            data = data[: start + 1 + new[0]] + data[start:]
        else:
            data = data[:start]
    return data


def draw(strategy: st.SearchStrategy[bytes], count: int, seed_: int) -> list[bytes]:
    """Draw `count` examples of a strategy; the same seed gives the same examples."""
    drawn: list[bytes] = []

    @seed(seed_)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(data: bytes) -> None:
        drawn.append(data)

    while len(drawn) < count:
        collect()
        seed_ += 1
    return drawn[:count]


def mend_png(data: bytes) -> bytes:
    """Correct the checksum of each chunk of a PNG, so that decoders read the damaged content."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    start, mended = 8, data[:8]
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        content = data[start + 4 : start + 8 + length]
        mended += data[start : start + 4] + content + zlib.crc32(content).to_bytes(4)
        start += 12 + length
    return mended


def mutate_images(count: int, seed_: int) -> list[bytes]:
    """Mutations of the readable images of all formats, half of them with correct PNG checksums."""
    seeds = [case.data for case in CASES.values() if case.data and case.status != "decode_failed"]
    seeds = [data for data in seeds if len(data) < 20_000]
    edited = st.builds(edit, st.sampled_from(seeds), st.lists(_EDITS, min_size=1, max_size=3))
    return draw(edited | edited.map(mend_png), count, seed_)


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


def fuzz_images(model: Path, count: int, seed_: int, keep: Path) -> dict[str, int]:
    """Decode mutated images, a thousand per process; returns the number of images per status.

    Raises:
        AssertionError: a process crashed, hung or lost a row; its images are written to `keep`.
    """
    total: Counter[str] = Counter()
    images = mutate_images(count, seed_)
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


def _seed_files() -> list[bytes]:
    valid = [case.data for case in CASES.values() if case.status == "ok" and case.data and len(case.data) < 5000]
    images: list[bytes | None] = [*valid[:6], None]
    structs = pa.array([{"bytes": data, "path": None} for data in images], IMAGE_TYPE)
    keys = pa.array([f"k{number}" for number in range(len(images))])
    tables = [
        pa.table({"image": structs, "id": keys}),
        pa.table({"image": pa.array(images, pa.binary()).dictionary_encode(), "id": keys}),
        pa.table({"image": pa.array([[7] * 784] * 5, pa.list_(pa.uint8(), 784))}),
    ]
    files = []
    for table in tables:
        for options in (
            {"compression": "none"},
            {"compression": "zstd", "row_group_size": 2},
            {"data_page_version": "2.0"},
        ):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, **options)
            files.append(buffer.getvalue())
    return files


def edit_within(data: bytes, edits: list[Edit], region: str) -> bytes:
    """Edit a shard anywhere, or only its pages or footer, with correct magic numbers and length."""
    length = int.from_bytes(data[-8:-4], "little")
    pages, footer = data[4 : -8 - length], data[-8 - length : -8]
    if region == "anywhere":
        return edit(data, edits)
    if region == "pages":
        pages = edit(pages, edits)
    else:
        footer = edit(footer, edits)
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def mutate_files(count: int, seed_: int) -> list[bytes]:
    """Mutations of small shards."""
    regions = st.sampled_from(["anywhere", "pages", "footer"])
    edits = st.lists(_EDITS, min_size=1, max_size=3)
    return draw(st.builds(edit_within, st.sampled_from(_seed_files()), edits, regions), count, seed_)


def screen_one(model: Path, folder: Path) -> str:
    """Screen a folder with one good and one mutated shard; returns the outcome."""
    config = RunConfig(passes=1, device="cpu", threads=1)
    try:
        summary = run_screening(model, str(folder / "in"), folder / "out", config, Recorder())
    except InputRefused:  # the mutated schema does not fit; it must be refused before anything is written
        if (folder / "out").exists():
            raise AssertionError("refused, but something was written") from None
        return "refused"
    problems = check_results(folder / "out", str(folder / "in")).problems
    rows = sum(shard.rows for shard in find_shards(str(folder / "in"))[0])
    if problems or summary.rows != rows:
        raise AssertionError(f"{summary.rows} of {rows} rows; {problems}")
    if summary.unreadable:
        return "unreadable"
    return "damaged" if "unreadable_page" in summary.statuses else "read"


def screen_many(model: Path, files: list[bytes], work: Path) -> None:
    """Screen mutated shards one by one in this process; `work` contains the current one, then the outcomes."""
    faulthandler.enable()
    outcomes: Counter[str] = Counter()
    for data in files:
        (work / "in").mkdir(parents=True)
        (work / "in" / "good.parquet").write_bytes(_seed_files()[0])
        (work / "in" / "mutated.parquet").write_bytes(data)
        outcomes[screen_one(model, work)] += 1
        shutil.rmtree(work)
    work.mkdir()
    (work / "outcomes").write_text(json.dumps(outcomes), encoding="utf-8")


def fuzz_files(model: Path, count: int, seed_: int, work: Path, keep: Path) -> dict[str, int]:
    """Screen mutated shards, `_FILES` per process; returns the number of shards per outcome.

    Raises:
        AssertionError: a process crashed, hung or lost a row; its shard is written to `keep`.
    """
    total: Counter[str] = Counter()
    files = mutate_files(count, seed_)
    for start in range(0, count, _FILES):
        folder = work / str(start)
        process = _PROCESSES.Process(target=screen_many, args=(model, files[start : start + _FILES], folder))
        process.start()
        process.join(_SECONDS)
        if process.exitcode != 0:
            process.kill()
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "in" / "mutated.parquet", keep / f"file-{start}.parquet")
            raise AssertionError(f"a run ended with {process.exitcode}; its shard is in {keep}")
        total.update(json.loads((folder / "outcomes").read_text(encoding="utf-8")))
    return dict(sorted(total.items()))


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an export of the article's network; default: a new one")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the result")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for failing inputs")
    chosen = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        model = chosen.model or export_article(Path(work) / "article.onnx")
        images = fuzz_images(model, chosen.images, chosen.seed, chosen.keep)
        files = fuzz_files(model, chosen.files, chosen.seed, Path(work), chosen.keep)
    result = {
        "mutations": f"hypothesis {version('hypothesis')}",
        "seed": chosen.seed,
        "images": chosen.images,
        "images_by_status": images,
        "files": chosen.files,
        "files_by_outcome": files,
        "crashes": 0,
        "hangs": 0,
        "lost_rows": 0,
        "seconds": round(time.monotonic() - started),
    }
    chosen.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
