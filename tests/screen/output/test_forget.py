"""Every state that a user, a disk or a killed process leaves in OUTPUT is reported, with a command that repairs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from export.errors import ExitCode, InputRefused, OptionRefused, OutputLocked, OutputRefused
from screen.config import RunConfig
from screen.files.paths import as_path
from screen.output import forget as module
from screen.output.check import check_results
from screen.output.forget import Forgotten, forget_results
from screen.output.locks.hold import hold_output
from screen.output.manifest_file import MANIFEST_NAME, ManifestFile
from screen.output.quarantine import QUARANTINE_NAME
from screen.output.record import RECORD_NAME
from screen.partition import ShardPartition
from screen.review.results import open_results
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from tests.conftest import Recorder, contents, oodscreen, write_shard

NEW = next(f"{letter}.parquet" for letter in "efghij" if ShardPartition(1, 2).contains(f"{letter}.parquet"))
"""The name of a shard in part 1/2 of a run."""

CONFIG: dict[str, Any] = {"passes": 2, "device": "cpu", "max_bad_rows": "100%"}


@pytest.fixture(scope="module")
def whole(article_onnx: Path, digit_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, `in` (four good shards and one with unreadable rows) and the results `out`."""
    folder = tmp_path_factory.mktemp("states")
    shutil.copy(article_onnx, folder / "model.onnx")
    shutil.copytree(digit_shards, folder / "in")
    write_shard(folder / "in" / "bad.parquet", [None, b"no image"])
    run(folder)
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage, at the path that the manifest records as INPUT."""
    folder = Path(shutil.copytree(whole, tmp_path / "place", copy_function=shutil.copy2))
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace(str(whole), str(folder)))
    run(folder)  # writes the quarantine table with the new path
    monkeypatch.chdir(folder)
    return folder


def run(folder: Path, **options: Any) -> RunSummary:
    config = RunConfig(**{**CONFIG, **options})
    return run_screening(folder / "model.onnx", str(folder / "in"), folder / "out", config, Recorder())


def overwrite(path: Path) -> None:
    """Damage a file at the same size."""
    path.write_bytes(b"\0" * path.stat().st_size)


def cut_manifest(folder: Path) -> None:
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text(manifest.read_text()[:-5])


def damage_manifest(folder: Path) -> None:
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"flagged"', '"flogged"', 1))


def replace_by_other_result(folder: Path) -> None:
    shutil.copy(folder / "out" / "a.parquet", folder / "out" / "c.parquet")


def lose(folder: Path, name: str, *, damage: Callable[[Path], None] = Path.unlink) -> None:
    """Remove an input, and remove or damage its result."""
    (folder / "in" / name).unlink()
    damage(folder / "out" / name)


def leave_stale_staging(folder: Path) -> None:
    (folder / "out" / ".oodscreen-0123").write_text("half")


def forget_manifest(folder: Path) -> None:
    (folder / "out" / MANIFEST_NAME).unlink()
    (folder / "in" / "a.parquet").unlink()


def leave_unfinished_part(folder: Path) -> None:
    write_shard(folder / "in" / NEW, [None])
    run(folder, part="1/2")


def damage_manifest_of_part(folder: Path) -> None:
    leave_unfinished_part(folder)
    (folder / "out" / "_manifest.1-of-2.jsonl").write_text("{")


def put_header_only(folder: Path) -> None:
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text(manifest.read_text().split("\n")[0] + "\n")


STATES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "a result is missing": lambda folder: (folder / "out" / "a.parquet").unlink(),
    "a result with unreadable rows is missing": lambda folder: (folder / "out" / "bad.parquet").unlink(),
    "a result is damaged": lambda folder: overwrite(folder / "out" / "a.parquet"),
    "a result with unreadable rows is damaged": lambda folder: overwrite(folder / "out" / "bad.parquet"),
    "a result is replaced": replace_by_other_result,
    "an input vanished": lambda folder: (folder / "in" / "a.parquet").unlink(),
    "input and result are gone": lambda folder: lose(folder, "a.parquet"),
    "input and result with unreadable rows are gone": lambda folder: lose(folder, "bad.parquet"),
    "input gone, result damaged": lambda folder: lose(folder, "a.parquet", damage=overwrite),
    "input gone, result with unreadable rows damaged": lambda folder: lose(folder, "bad.parquet", damage=overwrite),
    "the last line of the manifest is cut": cut_manifest,
    "a line of the manifest is damaged": damage_manifest,
    "the manifest is empty": lambda folder: (folder / "out" / MANIFEST_NAME).write_text(""),
    "the manifest is missing": lambda folder: (folder / "out" / MANIFEST_NAME).unlink(),
    "the manifest and an input are missing": forget_manifest,
    "the manifest lists no shard": put_header_only,
    "the quarantine table is missing": lambda folder: (folder / "out" / QUARANTINE_NAME).unlink(),
    "the quarantine table is damaged": lambda folder: overwrite(folder / "out" / QUARANTINE_NAME),
    "the record is missing": lambda folder: (folder / "out" / RECORD_NAME).unlink(),
    "the record is damaged": lambda folder: (folder / "out" / RECORD_NAME).write_text('{"promise": [1]}'),
    "a staging file is stale": leave_stale_staging,
    "a lock is left": lambda folder: (folder / "out" / "_lock.holder").write_text("process 1"),
    "a part has not finished": leave_unfinished_part,
    "the manifest of a part is damaged": damage_manifest_of_part,
}


REFUSED = ("a line of the manifest is damaged", "the manifest is empty", "the manifest of a part is damaged")
"""States in which a run is refused until `--force` is given."""
UNSEEN = "input gone, result damaged"
"""A run does not read intact-looking results; `check` finds this state."""


def follow(text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a message says: the `oodscreen forget` commands in it, and a run, with `--force` if it is named."""
    for command in re.findall(r"`oodscreen (forget [^`]*)`", text):
        assert oodscreen(*shlex.split(command), monkeypatch=monkeypatch) == ExitCode.DONE
    run(place, force="all" if "--force" in text else None)


@pytest.mark.hostile(
    "A result, an input shard, the manifest, the quarantine table, `_run.json` or the manifest of a part is missing, "
    "cut off or damaged",
    "the message contains the command that repairs OUTPUT: a run, a run with `--force`, or `oodscreen forget`",
)
@pytest.mark.parametrize("state", STATES)
def test_the_named_command_mends_the_state(
    state: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    STATES[state](place)
    for _ in range(3):
        code = oodscreen("check", "out", "--input", "in", monkeypatch=monkeypatch)
        text = "".join(capsys.readouterr())
        if code == ExitCode.DONE:
            break
        follow(text, place, monkeypatch)
        capsys.readouterr()
    assert code == ExitCode.DONE, text
    assert run(place).exit_code is ExitCode.DONE
    results = open_results("out")
    assert sum(table.num_rows for entry in results.entries for table in results.batches(entry, ["row"])) == results.rows


@pytest.mark.parametrize("state", STATES)
def test_a_run_succeeds_in_every_state_or_names_the_command(
    state: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    STATES[state](place)
    if state in REFUSED:
        with pytest.raises(OutputRefused) as refused_run:
            run(place)
        assert "--force" in refused_run.value.next_step
        assert run(place, force="all").exit_code is ExitCode.DONE
        return
    summary = run(place)
    assert summary.exit_code is (ExitCode.UNREADABLE_INPUT if summary.gone else ExitCode.DONE)
    assert bool(summary.gone) == ("gone" in state and state != UNSEEN)
    if summary.gone:
        for text in ("\n".join(summary.plan_lines()), summary.to_text()):
            assert f"`oodscreen forget {summary.output} --damaged`" in text
        results = open_results("out")
        with pytest.raises(InputRefused, match="cannot be used") as refused:
            [list(results.batches(entry, ["row"])) for entry in results.entries]
        assert "--damaged" in refused.value.next_step
        forget_results(place / "out", Forgotten(damaged=True))
        assert run(place).exit_code is ExitCode.DONE
        assert check_results(place / "out", "in").problems == ()


class Killed(BaseException):
    """The process ends here."""


STEPS = ("write_text", "remove_results", "write_quarantine", "remove_partitions")


@pytest.mark.hostile(
    "`oodscreen forget` is killed at any moment",
    "the manifest lists only complete results; the next `forget` or run removes the remaining files",
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("calls", range(4))
@pytest.mark.parametrize("heal", ["forget", "run"])
def test_a_killed_forget_is_completed(
    heal: str, calls: int, after: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.parquet", "bad.parquet"):
        (place / "in" / name).unlink()
    wanted = Path(shutil.copytree(place / "out", tmp_path / "wanted", copy_function=shutil.copy2))
    forget_results(wanted, Forgotten(vanished=True))
    done = 0

    def kill(step: str) -> Callable[..., None]:
        real = getattr(module, step)

        def call(*arguments: Any) -> None:
            nonlocal done
            done += 1
            if done == calls + 1 and not after:
                raise Killed
            real(*arguments)
            if done == calls + 1:
                raise Killed

        return call

    with monkeypatch.context() as patch:
        for step in STEPS:
            patch.setattr(module, step, kill(step))
        with pytest.raises(Killed):
            forget_results(place / "out", Forgotten(vanished=True))
    manifest = ManifestFile.require(place / "out")
    assert manifest.finished
    assert all((place / "out" / name).is_file() for name in manifest.entries)
    if heal == "run":
        run(place)
        assert check_results(place / "out").problems == ()
    forget_results(place / "out", Forgotten(vanished=True))
    assert contents(place / "out") == contents(wanted)
    assert check_results(place / "out", "in").problems == ()


def test_each_selection_takes_its_results_and_their_rows_in_the_quarantine(place: Path) -> None:
    os.utime(place / "out" / "bad.parquet", (0, 0))
    report = forget_results(place / "out", Forgotten(before="1971-01-01"))
    assert (report.shards, report.rows, report.in_input) == (("bad.parquet",), 2, ("bad.parquet",))
    assert check_results(place / "out").problems == ()
    assert "the next run scores these shards again" in report.to_text()
    assert forget_results(place / "out", Forgotten(before="1971-01-01")).shards == ()
    report = forget_results(place / "out", Forgotten(shards=("sub/d.parquet", "c.parquet")))
    assert report.shards == ("c.parquet", "sub/d.parquet")
    assert not (place / "out" / "sub").exists()
    assert check_results(place / "out").problems == ()
    assert forget_results(place / "out", Forgotten(damaged=True)).shards == ()
    assert set(run(place).reasons) == {"bad.parquet", "c.parquet", "sub/d.parquet"}


def test_a_dry_run_changes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place / "out")
    words = ["forget", "out", "--before", "2999-01-01", "--dry-run", "--json"]
    assert oodscreen(*words, monkeypatch=monkeypatch) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert (len(told["shards"]), told["rows"], told["dry_run"]) == (5, 302, True)
    assert contents(place / "out") == before


def test_input_that_is_not_mounted_is_not_taken_for_vanished(place: Path) -> None:
    (place / "in").rename(place / "elsewhere")
    for _ in range(2):
        with pytest.raises(InputRefused, match="every shard in it has vanished"):
            forget_results(place / "out", Forgotten(vanished=True))
        (place / "in").mkdir(exist_ok=True)  # an empty mount point
    assert check_results(place / "out").problems == ()


@pytest.mark.parametrize(
    "values", [{}, {"vanished": True, "damaged": True}, {"before": "yesterday"}, {"shards": ("x",), "before": "2026"}]
)
def test_a_selection_is_one_of_the_four(values: dict[str, Any]) -> None:
    with pytest.raises(OptionRefused):
        Forgotten(**values)


@pytest.mark.parametrize("name", ["none.parquet", "../in/a.parquet", "_quarantine.pq", "sub"])
def test_only_results_can_be_forgotten(name: str, place: Path) -> None:
    before = contents(place)
    with pytest.raises(OptionRefused, match="is not a result"):
        forget_results(place / "out", Forgotten(shards=(name,)))
    assert contents(place) == before


def test_a_held_or_partly_finished_output_is_refused(place: Path) -> None:
    for dry_run in (False, True):
        with hold_output(place / "out"), pytest.raises(OutputLocked):
            forget_results(place / "out", Forgotten(vanished=True), dry_run=dry_run)
    leave_unfinished_part(place)
    with pytest.raises(OutputRefused, match="has not finished") as refused:
        forget_results(place / "out", Forgotten(vanished=True))
    assert "2/2" in refused.value.next_step
    run(place, part="2/2")
    forget_results(place / "out", Forgotten(shards=(NEW,)))
    assert check_results(place / "out").problems == ()


def test_the_manifest_of_a_part_that_scored_nothing_does_not_bring_a_result_back(place: Path) -> None:
    (place / "in" / "a.parquet").unlink()
    run(place, part="1/2")
    assert len(ManifestFile.require(place / "out").partitions) == 1
    assert forget_results(place / "out", Forgotten(vanished=True)).shards == ("a.parquet",)
    assert not ManifestFile.require(place / "out").partitions
    assert check_results(place / "out", "in").problems == ()


@pytest.mark.parametrize("blocked", ["a.parquet", "sub"])
def test_a_path_that_no_result_can_take_is_refused_with_its_name(blocked: str, place: Path) -> None:
    path = place / "out" / blocked
    if blocked == "sub":
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(OutputRefused, match="cannot be written") as refused:
        run(place)
    assert str(path) in refused.value.next_step
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(place).exit_code is ExitCode.DONE


def test_results_in_a_store_are_forgotten(article_onnx: Path, digit_shards: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(article_onnx), "/m.onnx")
        for name in ("a.parquet", "b.parquet", "c.parquet"):
            memory.put(str(digit_shards / name), f"/in/{name}")
        write = RunConfig(passes=2, device="cpu")
        run_screening("memory://m.onnx", "memory://in", "memory://out", write, Recorder())
        output = as_path("memory://out")
        memory.rm("/in/c.parquet")
        memory.store["/out/a.parquet"].write(b"damaged")
        assert forget_results(output, Forgotten(damaged=True)).shards == ("a.parquet",)
        assert forget_results(output, Forgotten(vanished=True)).shards == ("c.parquet",)
        assert forget_results(output, Forgotten(before="2020-01-01")).shards == ()
        assert check_results(output).problems == ()
        assert run_screening("memory://m.onnx", "memory://in", "memory://out", write, Recorder()).rows == 120
        assert forget_results(output, Forgotten(before="2999-01-01")).shards == ("a.parquet", "b.parquet")
        assert check_results(output).rows == 0
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


@pytest.mark.hostile(
    "A shard in INPUT is replaced by a folder of the same name",
    "the shard counts as vanished; `oodscreen forget --vanished` removes its result, and the shards in the folder are "
    "scored",
)
def test_a_shard_that_is_replaced_by_a_folder_has_vanished(place: Path) -> None:
    inner = place / "in" / "inner.parquet"
    (place / "in" / "a.parquet").rename(inner)
    (place / "in" / "a.parquet").mkdir()
    inner.rename(place / "in" / "a.parquet" / inner.name)
    summary = run(place)
    assert (summary.vanished, summary.exit_code) == (["a.parquet"], ExitCode.UNREADABLE_INPUT)
    assert forget_results(place / "out", Forgotten(vanished=True)).shards == ("a.parquet",)
    assert run(place).exit_code == ExitCode.DONE
    assert check_results(place / "out", str(place / "in")).problems == ()


def test_a_forced_run_names_the_results_of_another_configuration_that_stay(place: Path) -> None:
    (place / "in" / "a.parquet").unlink()
    (place / "in" / "b.parquet").write_bytes(b"no Parquet")
    summary = run(place, passes=3, force="all")
    assert summary.left_over == ["a.parquet", "b.parquet"]
    assert (
        "not in the manifest: results of another configuration: 2 shard(s): a.parquet, b.parquet" in summary.to_text()
    )
    assert len(check_results(place / "out").problems) == 2
    forget_results(place / "out", Forgotten(shards=("a.parquet", "b.parquet")))
    assert check_results(place / "out").problems == ()
    assert run(place, passes=3).left_over == []
