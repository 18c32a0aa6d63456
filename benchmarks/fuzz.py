"""Throw mutated images and mutated Parquet files at the screener: no crash, no hang, no lost row.

    python -m benchmarks.fuzz [--images 10000] [--files 500] [--model model.onnx]

Hypothesis draws the mutations, of the images of `tests/hostile_images.py` and of small shards. Images are
decoded and shards are screened in processes of their own, with a time limit, so that a crash or a hang is
seen for what it is. Every mutated shard goes through the whole loop, beside a good one, and the results must
pass `oodscreen check`. What came of it is written to `benchmarks/results/fuzz.json`.
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
"""How many a process takes."""

_PROCESSES = multiprocessing.get_context("spawn")
_SECONDS = 120
"""What a process may take; it takes a few."""

Edit = tuple[str, float, bytes]
"""What to do, where (as a share of the length), and with which bytes."""

_INTERESTING = [b"\0", b"\x7f", b"\x80", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"]
_EDITS = st.tuples(
    st.sampled_from(["flip", "put", "insert", "cut", "repeat", "end"]),
    st.integers(0, 10**6).map(lambda number: number * 0.6180339887 % 1),  # anywhere, not at the ends above all
    st.sampled_from(_INTERESTING) | st.binary(min_size=1, max_size=12),
)


def edit(data: bytes, edits: list[Edit]) -> bytes:
    """Apply some edits one after the other."""
    for kind, share, new in edits:
        place = int(share * len(data))
        if kind == "flip":
            data = data[:place] + bytes(byte ^ new[0] for byte in data[place : place + 1]) + data[place + 1 :]
        elif kind == "put":
            data = data[:place] + new + data[place + len(new) :]
        elif kind == "insert":
            data = data[:place] + new + data[place:]
        elif kind == "cut":
            data = data[:place] + data[place + 1 + new[0] % 64 :]
        elif kind == "repeat":
            data = data[: place + 1 + new[0]] + data[place:]
        else:
            data = data[:place]
    return data


def draw(strategy: st.SearchStrategy[bytes], count: int, seed_: int) -> list[bytes]:
    """So many examples of a strategy, the same for the same seed."""
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
    """Give each chunk of a PNG the checksum that its content has, so that damage gets further than that."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    place, mended = 8, data[:8]
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        content = data[place + 4 : place + 8 + length]
        mended += data[place : place + 4] + content + zlib.crc32(content).to_bytes(4)
        place += 12 + length
    return mended


def mutate_images(count: int, seed_: int) -> list[bytes]:
    """Mutations of every image that can be opened, of all formats, half of them with checksums that fit."""
    seeds = [case.data for case in CASES.values() if case.data and case.status != "decode_failed"]
    seeds = [data for data in seeds if len(data) < 20_000]
    edited = st.builds(edit, st.sampled_from(seeds), st.lists(_EDITS, min_size=1, max_size=3))
    return draw(edited | edited.map(mend_png), count, seed_)


def decode_many(model: Path, images: list[bytes], told: multiprocessing.SimpleQueue[dict[str, int]]) -> None:
    """Decode in this process; what each came to goes into the queue."""
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
    told.put({"ok": len(batch.images), **statuses})


def fuzz_images(model: Path, count: int, seed_: int, keep: Path) -> dict[str, int]:
    """Decode mutated images, a thousand in each process.

    Raises:
        AssertionError: a process crashed, hung or lost a row; its images are kept.
    """
    total: Counter[str] = Counter()
    images = mutate_images(count, seed_)
    for start in range(0, count, _IMAGES):
        batch = images[start : start + _IMAGES]
        told: multiprocessing.SimpleQueue[dict[str, int]] = _PROCESSES.SimpleQueue()
        process = _PROCESSES.Process(target=decode_many, args=(model, batch, told))
        process.start()
        process.join(_SECONDS)
        if process.exitcode != 0:
            process.kill()
            keep.mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(batch):
                (keep / f"image-{start + number}").write_bytes(data)
            raise AssertionError(f"decoding ended with {process.exitcode}; the images are in {keep}")
        total.update(told.get())
    return dict(sorted(total.items()))


def _seed_files() -> list[bytes]:
    honest = [case.data for case in CASES.values() if case.status == "ok" and case.data and len(case.data) < 5000]
    images: list[bytes | None] = [*honest[:6], None]
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


def edit_within(data: bytes, edits: list[Edit], part: str) -> bytes:
    """Edit a shard anywhere, or its pages or footer alone with magic numbers and length made to fit."""
    length = int.from_bytes(data[-8:-4], "little")
    pages, footer = data[4 : -8 - length], data[-8 - length : -8]
    if part == "anywhere":
        return edit(data, edits)
    if part == "pages":
        pages = edit(pages, edits)
    else:
        footer = edit(footer, edits)
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def mutate_files(count: int, seed_: int) -> list[bytes]:
    """Mutations of small shards."""
    parts = st.sampled_from(["anywhere", "pages", "footer"])
    edits = st.lists(_EDITS, min_size=1, max_size=3)
    return draw(st.builds(edit_within, st.sampled_from(_seed_files()), edits, parts), count, seed_)


def screen_one(model: Path, place: Path) -> str:
    """Screen a folder with one good and one mutated shard; gives what came of it."""
    config = RunConfig(passes=1, device="cpu", threads=1)
    try:
        summary = run_screening(model, str(place / "in"), place / "out", config, Recorder())
    except InputRefused:  # the mutated schema does not fit, which is said before anything is written
        if (place / "out").exists():
            raise AssertionError("refused, but something was written") from None
        return "refused"
    problems = check_results(place / "out", str(place / "in")).problems
    rows = sum(shard.rows for shard in find_shards(str(place / "in"))[0])
    if problems or summary.rows != rows:
        raise AssertionError(f"{summary.rows} of {rows} rows; {problems}")
    if summary.unreadable:
        return "unreadable"
    return "damaged" if "unreadable_page" in summary.statuses else "read"


def screen_many(model: Path, files: list[bytes], work: Path) -> None:
    """Screen mutated shards one after the other in this process; `work` keeps the one that it is at."""
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
    """Screen mutated shards, some in each process.

    Raises:
        AssertionError: a process crashed, hung or lost a row; its shard is kept.
    """
    total: Counter[str] = Counter()
    files = mutate_files(count, seed_)
    for start in range(0, count, _FILES):
        place = work / str(start)
        process = _PROCESSES.Process(target=screen_many, args=(model, files[start : start + _FILES], place))
        process.start()
        process.join(_SECONDS)
        if process.exitcode != 0:
            process.kill()
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / "in" / "mutated.parquet", keep / f"file-{start}.parquet")
            raise AssertionError(f"a run ended with {process.exitcode}; its shard is in {keep}")
        total.update(json.loads((place / "outcomes").read_text(encoding="utf-8")))
    return dict(sorted(total.items()))


def main() -> None:
    """Run it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an export of the article's network; default: one is made")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where inputs go that broke something")
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
