"""Results for report pages."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.report import write_input, write_results
from screen.columns import DISTANCES, FEATURE_DISTANCE
from screen.config import RunConfig, fingerprint
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.screen.review.pages import HOSTILE


def screen_digits(place: Path, model: Path, digits: NDArray[np.uint8]) -> Path:
    """A real run in `out`: digits and noise in three shards of `in`, with rows and a shard in quarantine."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), dtype=np.uint8)
    write_shard(place / "in" / "a.parquet", [encode(image) for image in digits[:150]], row_group_size=40)
    write_shard(place / "in" / "b.parquet", [encode(image) for image in noise])
    write_shard(place / "in" / "sub" / "c.parquet", [encode(digits[0]), None, b"nonsense"])
    (place / "in" / "d.parquet").write_bytes(b"PAR1")
    config = RunConfig(passes=10, keep=["label"], device="cpu", max_bad_rows="100%")
    run_screening(model, str(place / "in"), place / "out", config, Recorder())
    return place


def draw_scores(place: Path) -> Path:
    """Simulated scores of a calibrated run in `out`, for 4,000 digits in two shards of `in`."""
    write_input(place / "in", 4000, 2000)
    write_results(place / "in", place / "out")
    return place


def to_format_1(output: Path) -> None:
    """Rewrite results as the first version wrote them: with one distance, and without the column flag_reasons."""
    _to_format(output, 1, ["flag_reasons"])


def to_format_2(output: Path) -> None:
    """Rewrite results as versions before three distances wrote them: with the column feature_distance."""
    _to_format(output, 2, [])


def _to_format(output: Path, number: int, dropped: list[str]) -> None:
    manifest = output / "_manifest.jsonl"
    header, *lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    identity = {key: value for key, value in header.items() if key != "configuration"} | {"result_format": number}
    for line in lines:
        if "shard" not in line:
            continue
        path = output / line["shard"]
        table = pq.read_table(path).drop_columns([*dropped, *DISTANCES])
        place = table.column_names.index("ood_score")
        table = table.add_column(place, FEATURE_DISTANCE.field(), pa.nulls(len(table), FEATURE_DISTANCE.type))
        pq.write_table(table.replace_schema_metadata({"oodscreen": json.dumps(identity, sort_keys=True)}), path)
        data = path.read_bytes()
        line |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    everything = [identity | {"configuration": fingerprint(identity)}, *lines]
    manifest.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in everything))


def name_hostile(place: Path, digits: NDArray[np.uint8]) -> Path:
    """Results in `out<i>` with malicious names of keys, classes and shard."""
    encoded: list[bytes | None] = [encode(image) for image in digits[: len(HOSTILE)]]
    encoded[3:5] = [b"<b>no image</b>", None]
    write_shard(place / "in" / "<img src=x onerror=alert(1)>.parquet", encoded, ids=HOSTILE)
    write_results(place / "in", place / "out<i>", class_names=tuple(HOSTILE))
    return place
