from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.report import write_input, write_results
from screen.config import fingerprint
from screen.output.manifest_file import MANIFEST_NAME
from screen.review.report.findings import Comparison
from screen.review.report.gather import gather_findings
from tests.conftest import read_results


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over three shards, `then` and `now`, with independent simulated scores."""
    folder = tmp_path_factory.mktemp("changes")
    write_input(folder / "in", 6000, 2000)
    for name, seed in (("then", 1), ("now", 2)):
        write_results(folder / "in", folder / name, seed=seed)
    return folder


def compare(now: Path, then: Path) -> Comparison:
    found = gather_findings(str(now), top=0, against=str(then)).comparison
    assert found is not None
    return found


def rewrite(results: Path, **settings: object) -> None:
    """Change settings in the manifest."""
    manifest = results / MANIFEST_NAME
    header, *lines = manifest.read_text().splitlines()
    header_values = {**json.loads(header), **settings}
    header_values.pop("configuration")
    header_values["configuration"] = fingerprint(header_values)
    manifest.write_text("\n".join([json.dumps(header_values), *lines]) + "\n")


def test_rows_are_compared_one_by_one(place: Path) -> None:
    both = read_results(place / "then").to_pandas().merge(read_results(place / "now").to_pandas(), on=["shard", "row"])
    newly = both[both.flag_y & ~both.flag_x].sort_values("ood_score_y", ascending=False)
    gone = both[both.flag_x & ~both.flag_y].sort_values("ood_score_x", ascending=False)
    found = compare(place / "now", place / "then")
    changes = found.changes
    assert changes is not None
    assert (changes.rows, changes.newly, changes.no_longer) == (6000, len(newly), len(gone))
    assert changes.newly > 20
    assert [row.now for row in changes.newly_first] == newly.ood_score_y.tolist()[:20]
    assert [row.before for row in changes.no_longer_first] == gone.ood_score_x.fillna(-1).tolist()[:20]
    ids = dict(zip(both.id_x, zip(both["shard"], both["row"], strict=True), strict=True))
    for row in (*changes.newly_first, *changes.no_longer_first):
        assert ids[row.id] == (row.shard, row.row)
    assert found.differences == (("seed", "1", "2"),)
    assert (found.new_shards, found.gone_shards, found.changed_shards) == (0, 0, 0)


def test_counts_of_the_earlier_run_are_its_own(place: Path) -> None:
    found = compare(place / "now", place / "then")
    assert found.counts == gather_findings(str(place / "then"), top=0).counts


def test_new_gone_and_changed_shards_are_counted_and_not_compared(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "in", tmp_path / "in", copy_function=shutil.copy2)
    shutil.copytree(place / "then", tmp_path / "then")
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    (tmp_path / "in" / names[0]).rename(tmp_path / "in" / "shard-new.parquet")
    (tmp_path / "in" / names[1]).touch()
    write_results(tmp_path / "in", tmp_path / "now", seed=1)
    found = compare(tmp_path / "now", tmp_path / "then")
    assert (found.new_shards, found.gone_shards, found.changed_shards) == (1, 1, 1)
    assert found.changes is not None
    assert found.changes.rows == 2000


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("model", "f" * 64, "model"),
        ("passes", 50, "passes T"),
        ("masks", "x", "masks"),
        ("precision", "tf32", "precision"),
    ],
)
def test_runs_with_incomparable_settings_are_not_compared_row_by_row(
    place: Path, tmp_path: Path, setting: str, value: object, words: str
) -> None:
    shutil.copytree(place / "then", tmp_path / "then")
    rewrite(tmp_path / "then", **{setting: value})
    found = compare(place / "now", tmp_path / "then")
    assert found.incomparable == (words,)
    assert found.changes is None
    assert words in [name for name, _, _ in found.differences]


def test_another_rule_or_calibration_is_reported_and_compared(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "then", tmp_path / "then")
    rewrite(tmp_path / "then", flag_if="p_value <= 0.05", calibration=None)
    found = compare(place / "now", tmp_path / "then")
    assert found.incomparable == ()
    assert found.changes is not None
    assert found.changes.score == "entropy", "an ood_score is on the scale of its calibration"
    assert ("flag rule", "p_value <= 0.05", "p_value <= 0.02") in found.differences
    assert ("calibration", "none", "1" * 12) in found.differences
