from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.report import write_results
from export.errors import InputRefused, OptionRefused, OutputLocked
from screen.input.preview import Preview
from screen.output.locks.hold import hold_output
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME, UNREADABLE_SHARD
from screen.output.record import RECORD_NAME
from screen.review.report.gather import gather_findings
from tests.conftest import read_results


def test_counts_are_those_of_the_rows(screened: Path) -> None:
    rows = read_results(screened / "out").to_pandas()
    found = gather_findings(str(screened / "out"))
    readable = rows[rows.status == "ok"]
    counts = found.counts
    assert (counts.shards, counts.rows, counts.bad) == (3, 183, 2)
    assert (counts.rate.rows, counts.rate.flagged) == (len(readable), readable.flag.sum())
    by_class = {int(share.name): (share.rows, share.flagged) for share in counts.classes}
    grouped = readable.groupby("prediction").flag.agg(["size", "sum"])
    assert by_class == {int(key): (int(size), int(flags)) for key, size, flags in grouped.itertuples()}
    assert {share.name: (share.rows, share.flagged, share.bad) for share in found.shards} == {
        name: (
            int((part.status == "ok").sum()),
            int(part.flag[part.status == "ok"].sum()),
            int((part.status != "ok").sum()),
        )
        for name, part in rows.groupby("shard")
    }
    assert [(share.name, share.flagged) for share in counts.reasons] == [
        ("entropy > 0.575646", int(readable.flag.sum()))
    ]
    for histogram in found.histograms:
        assert sum(histogram.rows) == len(readable)
        assert sum(histogram.flagged) == readable.flag.sum()
    assert found.histograms[0].score == "entropy"
    assert found.histograms[0].limits == (0.575646,)


def test_the_top_rows_have_the_values_of_the_results(screened: Path) -> None:
    rows = read_results(screened / "out").to_pandas()
    expected = rows[rows.status == "ok"].sort_values(["flag", "entropy"], ascending=False)[:7]
    found = gather_findings(str(screened / "out"), top=7, look_alikes=0)
    assert found.order == "entropy"
    assert [top_row.id for top_row in found.top_rows] == expected.id.tolist()
    for top_row, (_, row) in zip(found.top_rows, expected.iterrows(), strict=True):
        assert (top_row.shard, top_row.row, top_row.prediction) == (row.shard, row.row, str(int(row.prediction)))
        assert dict(top_row.scores)["entropy"] == pytest.approx(row.entropy)
        assert top_row.kept == (("label", str(row.label)),)
        assert [value.mean for value in top_row.values] == pytest.approx(np.sort(row["mean"])[::-1][:5])
        assert [value.std for value in top_row.values] == pytest.approx(row["std"][np.argsort(-row["mean"])[:5]])
        assert top_row.others == 5
        assert isinstance(top_row.preview, Preview)


def test_the_quarantine_names_rows_and_shards(screened: Path) -> None:
    found = gather_findings(str(screened / "out")).quarantine
    assert found.total == 3
    assert dict(found.statuses) == {"null_image": 1, "decode_failed": 1, UNREADABLE_SHARD: 1}
    assert {(bad.row, bad.status) for bad in found.first} == {
        (None, UNREADABLE_SHARD), (1, "null_image"), (2, "decode_failed")
    }  # fmt: skip


def test_a_calibration_gives_a_target_review_rate_and_an_expected_range(drawn: Path) -> None:
    rate = gather_findings(str(drawn / "out"), top=0).counts.rate
    assert rate.target == 0.02
    assert rate.by_calibration == rate.flagged
    assert rate.expected is not None
    assert rate.expected[0] < rate.flagged < rate.expected[1]


def test_without_a_record_the_target_review_rate_is_read_from_the_rule(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "out", tmp_path / "out")
    (tmp_path / "out" / RECORD_NAME).unlink()
    found = gather_findings(str(tmp_path / "out"), top=3)
    assert found.record is None
    assert (found.counts.rate.target, found.counts.rate.expected) == (0.02, None)
    assert len(found.top_rows) == 3


def test_a_source_without_results_is_refused(screened: Path, tmp_path: Path) -> None:
    for source, why in (
        (tmp_path / "missing", "does not exist"),
        (screened / "in", f"contains no {MANIFEST_NAME}"),
        (screened / "out" / "a.parquet", "is a file"),
    ):
        with pytest.raises(InputRefused, match=why):
            gather_findings(str(source))
    with pytest.raises(OptionRefused, match="--top is 1001"):
        gather_findings(str(screened / "out"), top=1001)
    with pytest.raises(OptionRefused, match="RESULTS itself"):
        gather_findings(str(screened / "out"), against=str(screened / "in" / ".." / "out"))


@pytest.fixture
def copy(screened: Path, tmp_path: Path) -> Path:
    shutil.copytree(screened / "out", tmp_path / "out")
    return tmp_path / "out"


def test_unfinished_results_are_refused_with_their_progress(copy: Path) -> None:
    manifest = copy / MANIFEST_NAME
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(InputRefused, match=r"did not finish: 2 shard\(s\) with 180 rows are finished"):
        gather_findings(str(copy))
    with hold_output(copy), pytest.raises(OutputLocked, match="180 rows are finished so far"):
        gather_findings(str(copy))


@pytest.mark.parametrize("what", ["gone", "cut", "other flags", "other rows", "no quarantine", "nonsense"])
def test_changed_results_are_refused(copy: Path, what: str) -> None:
    shard, manifest = copy / "a.parquet", copy / MANIFEST_NAME
    lines = manifest.read_text().splitlines()
    entry = json.loads(lines[1])
    if what == "gone":
        shard.unlink()
    elif what == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif what == "nonsense":
        shard.write_bytes(b"x" * shard.stat().st_size)
    elif what == "no quarantine":
        (copy / QUARANTINE_NAME).unlink()
    else:
        entry["flagged" if what == "other flags" else "rows"] += 1
        manifest.write_text("\n".join([lines[0], json.dumps(entry), *lines[2:]]) + "\n")
    with pytest.raises(InputRefused):
        gather_findings(str(copy))


def test_an_empty_run_has_findings_too(tmp_path: Path, drawn: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pq.read_table(drawn / "in" / "shard-0000.parquet").slice(0, 0), tmp_path / "in" / "a.parquet")
    write_results(tmp_path / "in", tmp_path / "out")
    found = gather_findings(str(tmp_path / "out"))
    assert (found.counts.rows, found.top_rows, found.histograms) == (0, (), ())
