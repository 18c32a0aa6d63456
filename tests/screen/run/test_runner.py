from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import stats

from export.contract.reader import ExportedModel
from export.errors import ExitCode, InputRefused, OutputLocked, OutputRefused, Terminated
from export.graph.passes import stamp_metadata
from screen import Screener
from screen.columns import COLUMNS, SCORES
from screen.config import RunConfig
from screen.input import image_file
from screen.output.check import check_results
from screen.output.locks.hold import hold_output
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME
from screen.run.runner import run_screening
from screen.run.stopping import StopRequest
from screen.run.summary import RunSummary
from tests.conftest import Recorder, contents, encode, read_results, write_shard
from tests.screen.engine.graphs import Graph, raw_values

PASSES = 20
LISTS = {MANIFEST_NAME, QUARANTINE_NAME}


def save(model: ExportedModel, path: Path) -> None:
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, path)


def run(model: Path, source: Path, output: Path, listener: Recorder | None = None, **options: Any) -> RunSummary:
    config = RunConfig(**{"passes": PASSES, "device": "cpu", **options})
    return run_screening(model, str(source), output, config, listener or Recorder())


@pytest.fixture(scope="module")
def results(article_onnx: Path, digit_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "out"
    listener = Recorder()
    summary = run(article_onnx, digit_shards, folder, listener)
    assert (summary.rows, summary.exit_code) == (300, ExitCode.DONE)
    assert (listener.rows, listener.shards) == (300, 4)
    return folder


def test_there_is_one_result_shard_for_each_input_shard_a_manifest_and_a_quarantine(results: Path) -> None:
    assert set(contents(results)) == {"a.parquet", "b.parquet", "c.parquet", "sub/d.parquet", *LISTS}


def test_rows_in_are_rows_out_in_input_order(results: Path, digit_shards: Path) -> None:
    for path in digit_shards.rglob("*.parquet"):
        name = path.relative_to(digit_shards)
        given, written = pq.read_table(path), pq.read_table(results / name)
        assert written["id"].to_pylist() == given["id"].to_pylist()
        assert written["row"].to_pylist() == list(range(len(given)))
        assert set(written["shard"].to_pylist()) <= {name.as_posix()}


def test_every_column_is_there_with_its_type(results: Path) -> None:
    schema = pq.read_schema(results / "b.parquet")
    assert schema.names == [column.name for column in COLUMNS]
    assert [field.type for field in schema] == [column.type for column in COLUMNS]
    identity = json.loads(schema.metadata[b"oodscreen"])
    assert (identity["passes"], identity["seed"], identity["masks"]) == (PASSES, 0, "shared")


def test_text_is_dictionary_encoded_and_scores_are_not(results: Path) -> None:
    group = pq.read_metadata(next(results.glob("*.parquet"))).row_group(0)
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    assert columns["status"].has_dictionary_page
    assert not any(columns[name].has_dictionary_page for name in ("entropy", "confidence", "mean.list.element"))


def test_the_columns_contain_the_scores_of_the_screener(
    results: Path, article_onnx: Path, digits: NDArray[np.uint8]
) -> None:
    table = read_results(results)
    screener = Screener(article_onnx, passes=PASSES, device="cpu")
    rows = screener.score(digits[:300])
    for column in SCORES:
        expected = getattr(rows.summary, column.name, None)
        if expected is None:
            assert table[column.name].null_count == 300
        else:
            np.testing.assert_array_equal(np.array(table[column.name].to_pylist()), expected.astype(np.float32))
    assert table["flag"].to_pylist() == rows.flag.tolist()
    sentences = ["; ".join(reason.sentence for reason in reasons) for reasons in rows.reasons]
    conditions = [[reason.condition for reason in reasons] for reasons in rows.reasons]
    assert table["flag_reason"].to_pylist() == [sentence or None for sentence in sentences]
    assert table["flag_reasons"].to_pylist() == [condition or None for condition in conditions]
    assert 0 < rows.flag.sum() < 300
    assert set(table["passes"].to_pylist()) == {PASSES}
    assert set(table["status"].to_pylist()) == {"ok"}


def test_a_flag_can_be_verified_from_the_written_columns(results: Path) -> None:
    table = read_results(results)
    rule = np.float64(0.575646)
    assert table["flag"].to_pylist() == (np.array(table["entropy"].to_pylist()) > rule).tolist()


def test_the_same_seed_writes_the_same_files(
    results: Path, article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    run(article_onnx, digit_shards, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(results)


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_the_batch_size_changes_nothing(
    results: Path, article_onnx: Path, digit_shards: Path, tmp_path: Path, batch_size: int
) -> None:
    run(article_onnx, digit_shards, tmp_path / "out", batch_size=batch_size)
    assert contents(tmp_path / "out") == contents(results)


def test_scores_do_not_depend_on_the_split_into_shards(
    results: Path, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    encoded = [encode(image) for image in digits[:300]]
    for start in range(0, 300, 37):
        write_shard(tmp_path / "in" / f"{start:03d}.parquet", encoded[start : start + 37], row_group_size=11)
    run(article_onnx, tmp_path / "in", tmp_path / "out", batch_size=50)
    other, table = read_results(tmp_path / "out"), read_results(results)
    for name in (*(column.name for column in SCORES), "flag", "flag_reason"):
        assert other[name].to_pylist() == table[name].to_pylist(), name


@pytest.mark.hostile(
    "An image that takes too much processor time to decode",
    "its row gets the status `too_slow`; the next run scores its shard again",
)
def test_a_shard_with_an_image_that_took_too_much_time_is_scored_again(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = encode(digits[1], "BMP") + b"\0" * 2**16  # the time is measured only for files of at least this size
    write_shard(tmp_path / "in" / "a.parquet", [encode(digits[0]), long])
    write_shard(tmp_path / "in" / "b.parquet", [encode(digits[2])])
    with monkeypatch.context() as patched:
        patched.setattr(image_file, "_SECONDS", -1.0)
        for _ in range(2):
            summary = run(article_onnx, tmp_path / "in", tmp_path / "out")
            assert read_results(tmp_path / "out")["status"].to_pylist() == ["ok", "too_slow", "ok"]
            assert check_results(tmp_path / "out").problems == ()
    assert summary.reasons == {"a.parquet": "with images that took too much time"}
    run(article_onnx, tmp_path / "in", tmp_path / "out")
    assert read_results(tmp_path / "out")["status"].to_pylist() == ["ok"] * 3
    assert run(article_onnx, tmp_path / "in", tmp_path / "out").reasons == {}


@pytest.mark.hostile(
    "SIGINT or SIGTERM while a run decodes images that take long",
    "the run ends without decoding the other images of the batch; the results of finished shards stay",
)
def test_a_stop_does_not_wait_for_the_batch(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    class StopInBatch(StopRequest):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 100:
                self.record(signal.SIGTERM)
            super().check()

    write_shard(tmp_path / "in" / "a.parquet", [encode(digits[0])] * 2000)
    stop, config = StopInBatch(), RunConfig(passes=1, device="cpu", batch_size=1000)
    with pytest.raises(Terminated):
        run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder(), stop)
    assert stop.checks < 500
    assert "a.parquet" not in contents(tmp_path / "out")


def test_another_seed_gives_other_scores(results: Path, article_onnx: Path, digit_shards: Path, tmp_path: Path) -> None:
    run(article_onnx, digit_shards, tmp_path / "out", seed=1)
    one, other = (np.array(read_results(folder)["std"].to_pylist()) for folder in (results, tmp_path / "out"))
    assert np.mean(np.any(one != other, axis=1)) > 0.9


def test_rows_that_cannot_be_read_keep_their_place_and_are_flagged(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    good = [encode(image) for image in digits[:4]]
    rows = [good[0], None, b"", good[1], good[2][:40], encode(np.zeros((5, 5, 1), np.uint8)), good[3]]
    write_shard(tmp_path / "in" / "a.parquet", rows)
    write_shard(tmp_path / "in" / "b.parquet", [None, None])
    summary = run(article_onnx, tmp_path / "in", tmp_path / "out", keep=["label"])
    table = read_results(tmp_path / "out")
    assert table["id"].to_pylist() == [f"a-{row}" for row in range(7)] + ["b-0", "b-1"]
    assert table["label"].to_pylist() == [*range(7), 0, 1]
    statuses = [
        "ok",
        "null_image",
        "decode_failed",
        "ok",
        "decode_failed",
        "wrong_shape",
        "ok",
        "null_image",
        "null_image",
    ]
    assert table["status"].to_pylist() == statuses
    broken = table.filter(pa.compute.not_equal(table["status"], "ok"))
    assert broken["flag"].to_pylist() == [True] * 6
    assert broken["flag_reason"].to_pylist() == broken["status"].to_pylist()
    assert broken["flag_reasons"].to_pylist() == [[status] for status in broken["status"].to_pylist()]
    assert broken["error"].null_count == 0
    assert set(broken["passes"].to_pylist()) == {0}
    assert all(broken[column.name].null_count == 6 for column in SCORES)
    assert summary.statuses == {"ok": 3, "null_image": 3, "decode_failed": 2, "wrong_shape": 1}
    expected = Screener(article_onnx, passes=PASSES, device="cpu").score(digits[:4][[0, 1, 3]]).summary
    readable = table.filter(pa.compute.equal(table["status"], "ok"))
    np.testing.assert_array_equal(np.array(readable["mean"].to_pylist()), expected.mean.astype(np.float32))


def test_a_row_with_a_nan_output_has_a_status_and_no_scores(tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    """A row whose logits are NaN, beside rows whose logits are not."""
    g = Graph()
    root = g.op("Sqrt", g.op("Sub", g.flat(), g.const(np.float32(0.5))))
    save(g.finish(g.dense(g.site(root, 48), 48, 3), 3), tmp_path / "m.onnx")
    bright, dark = np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4, 3), np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in (bright, dark, bright)])
    run(tmp_path / "m.onnx", tmp_path / "in", tmp_path / "out")
    table = read_results(tmp_path / "out")
    assert table["status"].to_pylist() == ["ok", "non_finite", "ok"]
    assert table["flag"].to_pylist()[1] is True
    assert table["entropy"].null_count == 1


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("kind", "classes"), [("softmax", 3), ("sigmoid", 1)])
def test_a_row_whose_outputs_are_no_probabilities_has_a_status_and_no_scores(
    tmp_path: Path, kind: str, classes: int, adaptive: bool
) -> None:
    save(raw_values(kind, classes), tmp_path / "m.onnx")
    bright, dark = np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4, 3), np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in (dark, bright, dark)])
    write_shard(tmp_path / "in" / "b.parquet", [encode(bright)] * 2)
    for batch_size in (1, 2, 5):  # a batch in which every row fails, and one in which some do
        output = tmp_path / f"out-{batch_size}"
        summary = run(tmp_path / "m.onnx", tmp_path / "in", output, batch_size=batch_size, adaptive=adaptive)
        table = read_results(output)
        assert table["status"].to_pylist() == ["ok", *["not_probabilities", "ok"], *["not_probabilities"] * 2]
        assert table["flag_reason"].to_pylist()[1] == "not_probabilities"
        assert table["flag"].to_pylist()[1::2] == [True, True]
        assert table["entropy"].null_count == table["mean"].null_count == table["prediction"].null_count == 3
        assert "outputs are not probabilities" in table["error"].to_pylist()[1]
        assert summary.exit_code == ExitCode.UNREADABLE_INPUT
        assert check_results(output, str(tmp_path / "in")).problems == ()
        assert len(pq.read_table(output / QUARANTINE_NAME)) == 3


def test_a_single_logit_is_scored_as_a_sigmoid_of_it(tmp_path: Path) -> None:
    """The same network with the sigmoid in the graph, and as a logit."""
    images = np.random.default_rng(2).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in images])
    tables = []
    for kind in ("sigmoid", "logits"):
        g = Graph(kind=kind)
        logit = g.op("Sub", g.dense(g.site(g.flat(), 48), 48, 1), g.const(np.float32(1.95)))  # of either sign
        save(g.finish(logit, 1), tmp_path / f"{kind}.onnx")
        for adaptive in (False, True):
            output = tmp_path / f"{kind}-{adaptive}"
            run(tmp_path / f"{kind}.onnx", tmp_path / "in", output, adaptive=adaptive, passes=100)
            tables.append(read_results(output))
    of_sigmoid, of_sigmoid_adaptive, table, adaptive_table = tables
    assert table.equals(of_sigmoid)
    assert adaptive_table.equals(of_sigmoid_adaptive)
    mean = np.array(table["mean"].to_pylist())[:, 0]
    assert 0 < np.mean(mean > 0.5) < 1
    np.testing.assert_array_equal(np.array(table["prediction"]), mean > 0.5)
    np.testing.assert_allclose(table["entropy"], stats.entropy([mean, 1 - mean]), rtol=1e-5)
    assert table["energy"].null_count == 40


def test_a_rerun_scores_only_new_or_changed_shards(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    encoded = [encode(image) for image in digits[:30]]
    for name in ("a", "b", "c"):
        write_shard(tmp_path / "in" / f"{name}.parquet", encoded)
    run(article_onnx, tmp_path / "in", tmp_path / "out")
    again = run(article_onnx, tmp_path / "in", tmp_path / "out")
    assert (len(again.shards), again.skipped) == (0, ["a.parquet", "b.parquet", "c.parquet"])
    write_shard(tmp_path / "in" / "b.parquet", encoded[:7])
    write_shard(tmp_path / "in" / "d.parquet", encoded[:3])
    third = run(article_onnx, tmp_path / "in", tmp_path / "out")
    assert [shard.shard.name for shard in third.shards] == ["b.parquet", "d.parquet"]
    assert len(read_results(tmp_path / "out")) == 30 + 7 + 30 + 3
    forced = run(article_onnx, tmp_path / "in", tmp_path / "out", force="all")
    assert len(forced.shards) == 4


def test_a_stopped_run_is_completed_with_the_same_results(
    results: Path, article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_after_two(finished: int) -> None:
        if finished == 2:
            raise Stop

    with pytest.raises(Stop):
        run(article_onnx, digit_shards, tmp_path / "out", Recorder(stop_after_two), batch_size=70)
    assert set(contents(tmp_path / "out")) == {"a.parquet", "b.parquet", MANIFEST_NAME}
    summary = run(article_onnx, digit_shards, tmp_path / "out")
    assert summary.skipped == ["a.parquet", "b.parquet"]
    assert contents(tmp_path / "out") == contents(results)


def test_another_configuration_in_the_same_output_is_refused(
    results: Path, article_onnx: Path, digit_shards: Path
) -> None:
    before = contents(results)
    with pytest.raises(OutputRefused, match="passes: 20 instead of 21"):
        run(article_onnx, digit_shards, results, passes=21)
    assert contents(results) == before


def test_results_never_become_input_and_never_replace_it(
    article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    before = contents(digit_shards)
    for output in (digit_shards, digit_shards / "out"):
        with pytest.raises(OutputRefused, match="is inside INPUT"):
            run(article_onnx, digit_shards, output)
    with pytest.raises(OutputRefused, match="would replace this input shard"):
        run(article_onnx, digit_shards / "a.parquet", digit_shards, force="all")
    with pytest.raises(OutputRefused, match="is a file"):
        run(article_onnx, digit_shards, article_onnx)
    assert contents(digit_shards) == before


def test_a_shard_in_a_folder_with_the_name_of_the_history_is_refused(article_onnx: Path, tmp_path: Path) -> None:
    """A glob can name it, although a folder is searched without such names."""
    write_shard(tmp_path / "in" / "_history" / "a.parquet", [None])
    with pytest.raises(InputRefused, match=r"The name of the shard _history/a\.parquet is reserved"):
        run(article_onnx, tmp_path / "in" / "_*" / "*", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_without_a_footer_is_named_and_the_others_are_scored(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(digits[0])])
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1 no footer")
    summary = run(article_onnx, tmp_path / "in", tmp_path / "out")
    assert summary.exit_code is ExitCode.UNREADABLE_INPUT
    assert [shard.name for shard in summary.unreadable] == ["b.parquet"]
    assert summary.rows == 1


def test_a_shard_that_changes_during_the_run_has_no_result(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    encoded = [encode(image) for image in digits[:20]]
    for name in ("a", "b"):
        write_shard(tmp_path / "in" / f"{name}.parquet", encoded)

    def replace_b(finished: int) -> None:
        write_shard(tmp_path / "in" / "b.parquet", encoded[:19])

    summary = run(article_onnx, tmp_path / "in", tmp_path / "out", Recorder(replace_b), batch_size=1)
    assert summary.exit_code is ExitCode.UNREADABLE_INPUT
    assert [shard.name for shard in summary.unreadable] == ["b.parquet"]
    assert "changed or was removed" in summary.unreadable[0].reason
    assert list((tmp_path / "out").glob("*.parquet")) == [tmp_path / "out" / "a.parquet"]
    assert run(article_onnx, tmp_path / "in", tmp_path / "out").rows == 19


def test_shards_of_every_image_type_give_the_same_scores(
    article_onnx: Path, article: ExportedModel, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    flat = digits[:10].reshape(10, 784).tolist()
    columns = {
        "bytes": pa.array([encode(image) for image in digits[:10]]),
        "tensor": pa.array(flat, pa.list_(pa.uint8(), 784)),
    }
    tables = []
    for name, column in columns.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"pixels": column}), tmp_path / name / "a.parquet")
        run(article_onnx, tmp_path / name, tmp_path / f"{name}-out", image_column="pixels")
        tables.append(read_results(tmp_path / f"{name}-out"))
    assert tables[0].equals(tables[1])
    assert tables[0]["id"].to_pylist() == [f"a.parquet:{row}" for row in range(10)]


def test_a_regression_is_scored_with_a_flag_rule(tmp_path: Path) -> None:
    g = Graph(kind="regression")
    save(g.finish(g.dense(g.site(g.flat(), 48), 48, 2), 2), tmp_path / "m.onnx")
    bright, dark = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(bright), encode(dark)])
    run(tmp_path / "m.onnx", tmp_path / "in", tmp_path / "out", flag_if="largest_std > 0.01")
    table = read_results(tmp_path / "out")
    assert table["flag"].to_pylist() == [True, False]
    assert table["prediction"].null_count == table["entropy"].null_count == 2
    np.testing.assert_allclose(table["largest_std"].to_pylist(), np.max(table["std"].to_pylist(), axis=1))


def test_shards_with_the_same_name_from_two_inputs_do_not_replace_each_other(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_shard(tmp_path / "one" / "a.parquet", [encode(image) for image in digits[:5]])
    write_shard(tmp_path / "two" / "a.parquet", [encode(image) for image in digits[:3]])
    run(article_onnx, tmp_path / "one", tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputRefused, match="is the result of a shard with this name in"):
        run(article_onnx, tmp_path / "two", tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "one").rename(tmp_path / "moved")
    assert run(article_onnx, tmp_path / "moved", tmp_path / "out").skipped == ["a.parquet"]


def test_a_second_run_on_the_same_output_fails_with_the_holder_of_the_lock(
    article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    with hold_output(tmp_path / "out"), pytest.raises(OutputLocked, match="in use by process") as locked:
        run(article_onnx, digit_shards, tmp_path / "out")
    assert locked.value.exit_code is ExitCode.LOCKED
    assert run(article_onnx, digit_shards, tmp_path / "out").rows == 300


def test_stale_staging_files_of_a_killed_run_are_removed(
    article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    for name in (".oodscreen-0123", "sub/.oodscreen-4567"):
        (tmp_path / "out" / name).write_text("half a shard")
    run(article_onnx, digit_shards, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".oodscreen-*"))


def test_keys_are_taken_shard_by_shard(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    """A shard without keys, or with keys that are not valid text, does not affect other shards."""
    encoded = pa.array([encode(image) for image in digits[:2]])
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    (tmp_path / "in").mkdir()
    for name, keys in {
        "a": {"id": ["k0", "k1"]},
        "b": {},
        "c": {"id": broken},
        "d": {"id": pa.array([10**18, None], pa.timestamp("ns"))},
        "e": {"id": pa.array(["x", "y"]).dictionary_encode()},
        "f": {"id": [7, 8]},
    }.items():
        pq.write_table(pa.table({"image": encoded, **keys}), tmp_path / "in" / f"{name}.parquet")
    run(article_onnx, tmp_path / "in", tmp_path / "out")
    ids = read_results(tmp_path / "out")["id"].to_pylist()
    assert ids[:6] == ["k0", "k1", "b.parquet:0", "b.parquet:1", "ok", "\\xff\\xfe"]
    assert ids[6].startswith("2001-09-09")
    assert ids[7:] == ["d.parquet:1", "x", "y", "7", "8"]


def test_kept_columns_may_be_required_or_dictionaries(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name, words in (("a", ["x", "y"]), ("b", ["z", "z"])):
        kind = pa.dictionary(pa.int8(), pa.string())
        schema = pa.schema([("image", pa.binary()), pa.field("number", pa.int64(), nullable=False), ("word", kind)])
        encoded = [encode(image) for image in digits[:2]]
        columns = [pa.array(encoded), pa.array([1, 2]), pa.array(words).dictionary_encode().cast(kind)]
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), tmp_path / "in" / f"{name}.parquet")
    run(article_onnx, tmp_path / "in", tmp_path / "out", keep=["number", "word", "word"])
    table = read_results(tmp_path / "out")
    assert table["word"].to_pylist() == ["x", "y", "z", "z"]
    assert table.schema.field("number").nullable
