"""Malformed and malicious input: each case with its expected status, message and exit code.

For any input, nothing is written outside OUTPUT, nothing is unpickled, and every row keeps its position.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

from screen import cli
from screen.output.check import check_results
from tests import hostile_images
from tests.conftest import IMAGE_TYPE, REPOSITORY, encode, read_results, write_shard


def run(*words: str | Path) -> int:
    """Run the command in this process, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["oodscreen", "run", *map(str, words), "-T", "1", "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Images: all cases are in one shard, each between two good images.


@pytest.fixture(scope="module")
def screened(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Result rows of all cases, and of the good images between them, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_images.prepare_folder(folder / "images")
    good: dict[str, Any] = {"bytes": encode(digits[0]), "path": None}
    rows, names = [good], ["good 0"]
    for number, (name, case) in enumerate(hostile_images.CASES.items(), start=1):
        rows += [{"bytes": case.data, "path": case.path}, good]
        names += [name, f"good {number}"]
    table = pa.table({"image": pa.array(rows, IMAGE_TYPE), "id": names})
    (folder / "in").mkdir()
    pq.write_table(table, folder / "in" / "a.parquet", row_group_size=7)
    before = tree(folder)
    words: list[str | Path] = [article_onnx, folder / "in", folder / "out", "--image-root", folder / "images"]
    with warnings.catch_warnings():  # the tests turn warnings into errors
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        assert run(*words, "--batch-size", "16") == 3
    assert {name.split("/")[0] for name in tree(folder) - before} == {"out"}
    assert check_results(folder / "out", str(folder / "in")).problems == ()
    results = read_results(folder / "out").to_pylist()
    assert [row["id"] for row in results] == names
    return {row["id"]: row for row in results}


@pytest.mark.hostile(
    "An image whose header, metadata, scans, tiles or pixels take far more work or memory than its size justifies",
    "the image is not decoded, and its row gets the status `too_large` or `decode_failed`; the other rows are scored",
)
@pytest.mark.parametrize("name", hostile_images.CASES)
def test_a_hostile_image_has_its_status_and_its_reason(name: str, screened: dict[str, dict[str, Any]]) -> None:
    case, row = hostile_images.CASES[name], screened[name]
    assert row["status"] == case.status, row["error"]
    assert case.reason in (row["error"] or "")
    assert (row["error"] is None, row["entropy"] is not None, row["passes"]) == (
        (True, True, 1) if case.status == "ok" else (False, False, 0)
    )
    assert row["flag"] or case.status == "ok"


def test_good_images_between_hostile_ones_are_scored_as_alone(screened: dict[str, dict[str, Any]]) -> None:
    means = {tuple(row["mean"]) for name, row in screened.items() if name.startswith("good ")}
    assert len(means) == 1


def test_an_image_is_taken_as_it_is_stored_whatever_its_exif_says(screened: dict[str, dict[str, Any]]) -> None:
    """As `tf.io.decode_image` and `keras.utils.load_img` do."""
    still = screened["a path to an image in the folder"]["mean"]
    np.testing.assert_allclose(screened["a JPEG with an EXIF rotation"]["mean"], still, atol=0.05)


@pytest.mark.parametrize("name", ["an animated GIF", "an animated PNG", "a TIFF with three pages"])
def test_of_an_animation_the_first_frame_is_scored(name: str, screened: dict[str, dict[str, Any]]) -> None:
    assert screened[name]["mean"] == screened["a path to an image in the folder"]["mean"]


def test_unusual_but_valid_images_alone_end_with_0(article_onnx: Path, tmp_path: Path) -> None:
    valid = [case.data for case in hostile_images.CASES.values() if case.status == "ok" and case.data]
    write_shard(tmp_path / "in" / "a.parquet", valid)
    assert run(article_onnx, tmp_path / "in", tmp_path / "out", "--max-bad-rows", "0") == 0


# Parquet: each case is one run, with a good shard as well.


def write(folder: Path, image: pa.Array | pa.ChunkedArray, name: str = "x.parquet", **columns: Any) -> Path:
    pq.write_table(pa.table({"image": image, **columns}), folder / name, row_group_size=4)
    return folder / name


def change_bytes(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def footer_of(data: bytes) -> int:
    """Position of the first byte of the footer."""
    return len(data) - 8 - int(struct.unpack("<I", data[-8:-4])[0])


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def state_more_rows(data: bytes) -> bytes:
    """Change the row count of the file and of its only row group from 3 to 63, but not that of the columns."""
    start = footer_of(data)
    footer = data[start:-8]
    assert footer.count(b"\x16\x06") >= 2
    return data[:start] + footer.replace(b"\x16\x06", b"\x16\x7e", 1) + data[-8:]


def many_groups(folder: Path, data: bytes) -> None:
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(folder / "x.parquet", schema) as file:
        for _ in range(3000):
            file.write_table(schema.empty_table())
        file.write_table(pa.table({"image": [data]}, schema=schema))
        for _ in range(3000):
            file.write_table(schema.empty_table())


def two_columns_of_one_name(folder: Path, data: bytes) -> None:
    table = pa.Table.from_arrays([pa.array([data]), pa.array([data])], names=["image", "image"])
    pq.write_table(table, folder / "x.parquet")


def strange_names(folder: Path, data: bytes) -> None:
    for name in (
        "a b",
        "ünï-código",
        "new\nline",
        "..x",
        "x..",
        "-T",
        "'; rm -rf x;'",
        "\x1b[31mred",
        "a:b",
        "~",
        "%20",
    ):
        write(folder, pa.array([data]), f"{name}.parquet")


def rows(*values: bytes | None) -> pa.Array:
    return pa.array(values, pa.binary())


Made = Callable[[Path, bytes], object]
UNREADABLE, REFUSED = "unreadable, no result: x.parquet", "wanted:"

PARQUET: dict[str, tuple[Made, int, str, dict[str, int]]] = {
    # Function that writes the case from a folder and a good image; exit code; text in the message; number of rows per
    # status, without the good shard.
    "an empty file": (lambda f, d: (f / "x.parquet").touch(), 3, UNREADABLE, {}),
    "a text file": (lambda f, d: (f / "x.parquet").write_text("a,b\n1,2\n"), 3, UNREADABLE, {}),
    "only the magic number": (lambda f, d: (f / "x.parquet").write_bytes(b"PAR1"), 3, UNREADABLE, {}),
    "only two magic numbers": (lambda f, d: (f / "x.parquet").write_bytes(b"PAR1\0\0\0\0PAR1"), 3, UNREADABLE, {}),
    "an encrypted footer": (
        lambda f, d: change_bytes(write(f, rows(d)), lambda data: b"PARE" + data[4:-4] + b"PARE"),
        3,
        UNREADABLE,
        {},
    ),
    "half a file": (
        lambda f, d: change_bytes(write(f, rows(d, d)), lambda data: data[: len(data) // 2]),
        3,
        UNREADABLE,
        {},
    ),
    "a footer longer than the file": (
        lambda f, d: change_bytes(write(f, rows(d)), lambda data: data[:-8] + struct.pack("<I", 2**31) + b"PAR1"),
        3,
        UNREADABLE,
        {},
    ),
    "a corrupt footer": (
        lambda f, d: change_bytes(
            write(f, rows(d)),
            lambda data: data[: footer_of(data)] + b"\xff" * (len(data) - 8 - footer_of(data)) + data[-8:],
        ),
        3,
        UNREADABLE,
        {},
    ),
    "a footer that states more rows than the file has": (
        lambda f, d: change_bytes(write(f, rows(d, d, d)), state_more_rows),
        3,
        "The footer states",
        {},
    ),
    "a corrupt page": (
        lambda f, d: change_bytes(write(f, rows(d, d)), lambda data: data[:4] + b"\xff" * 40 + data[44:]),
        3,
        "unreadable_page 2",
        {"unreadable_page": 2},
    ),
    "a corrupt page in the second row group": (
        lambda f, d: change_bytes(
            write(f, rows(*[d] * 8)),
            lambda data: flip(data, pq.read_metadata(f / "x.parquet").row_group(1).column(0).data_page_offset + 1),
        ),
        3,
        "unreadable_page 4",
        {"ok": 4, "unreadable_page": 4},
    ),
    "a folder with the name of a shard": (lambda f, d: (f / "x.parquet").mkdir(), 0, "", {}),
    "a broken link": (lambda f, d: (f / "x.parquet").symlink_to("gone.parquet"), 3, "x.parquet", {}),
    "a link to itself": (lambda f, d: (f / "x.parquet").symlink_to("x.parquet"), 3, "x.parquet", {}),
    "a pipe": (lambda f, d: os.mkfifo(f / "x.parquet"), 3, "x.parquet", {}),
    "a file without rows": (lambda f, d: write(f, rows()), 0, "", {}),
    "a file without row groups": (
        lambda f, d: pq.ParquetWriter(f / "x.parquet", pa.schema([("image", pa.binary())])).close(),
        0,
        "",
        {},
    ),
    "a file with 6,000 empty row groups": (many_groups, 0, "", {"ok": 1}),
    "files with unusual names": (strange_names, 0, "", {"ok": 10}),  # the one that starts with a dot is hidden
    "images that are null": (lambda f, d: write(f, rows(None, d, None)), 3, "null_image 2", {"ok": 1, "null_image": 2}),
    "image structs that are null": (
        lambda f, d: write(f, pa.array([None, {"bytes": d, "path": None}, {"bytes": None, "path": None}], IMAGE_TYPE)),
        3,
        "null_image 2",
        {"ok": 1, "null_image": 2},
    ),
    "paths without --image-root": (
        lambda f, d: write(f, pa.array([{"bytes": None, "path": "/etc/passwd"}], IMAGE_TYPE)),
        3,
        "path_not_followed 1",
        {"path_not_followed": 1},
    ),
    "a dictionary-encoded image column": (
        lambda f, d: write(f, rows(d, d, None).dictionary_encode()),
        3,
        "null_image 1",
        {"ok": 2, "null_image": 1},
    ),
    "images of the type large binary": (
        lambda f, d: write(f, pa.array([d, None], pa.large_binary())),
        3,
        "",
        {"ok": 1, "null_image": 1},
    ),
    "an image struct with large binary": (
        lambda f, d: write(f, pa.array([{"bytes": d}], pa.struct([("bytes", pa.large_binary())]))),
        0,
        "",
        {"ok": 1},
    ),
    "an image struct with additional fields": (
        lambda f, d: write(
            f,
            pa.array(
                [{"size": [1], "bytes": d, "path": "x"}],
                pa.struct([("size", pa.list_(pa.int8())), ("bytes", pa.binary()), ("path", pa.string())]),
            ),
        ),
        0,
        "",
        {"ok": 1},
    ),
    "an image struct within a struct": (
        lambda f, d: write(f, pa.array([{"image": {"bytes": d, "path": None}}], pa.struct([("image", IMAGE_TYPE)]))),
        2,
        REFUSED,
        {},
    ),
    "lists of images": (lambda f, d: write(f, pa.array([[d]], pa.list_(pa.binary()))), 2, REFUSED, {}),
    "maps of images": (
        lambda f, d: write(f, pa.array([[("a", d)]], pa.map_(pa.string(), pa.binary()))),
        2,
        REFUSED,
        {},
    ),
    "text in the image column": (lambda f, d: write(f, pa.array(["aGVsbG8="])), 2, "has the type string", {}),
    "an image struct without the field `bytes`": (
        lambda f, d: write(f, pa.array([{"path": "x"}])),
        2,
        "has the type struct<path: string>",
        {},
    ),
    "an image struct whose `bytes` are text": (lambda f, d: write(f, pa.array([{"bytes": "x"}])), 2, REFUSED, {}),
    "two columns with the same name": (two_columns_of_one_name, 2, "2 columns 'image'", {}),
    "no image column": (
        lambda f, d: pq.write_table(pa.table({"picture": rows(d)}), f / "x.parquet"),
        2,
        "use --image-column 'picture'",
        {},
    ),
    "an image column of the type null": (lambda f, d: write(f, pa.nulls(3)), 2, "has the type null", {}),
    "row ids that are structs": (lambda f, d: write(f, rows(d), id=pa.array([{"a": 1}])), 0, "", {"ok": 1}),
    "row ids that are lists": (lambda f, d: write(f, rows(d), id=pa.array([[1, 2]])), 0, "", {"ok": 1}),
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_hostile_parquet_file_has_its_exit_code_and_its_message(
    name: str, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, code, message, statuses = PARQUET[name]
    good = encode(digits[0])
    write_shard(tmp_path / "in" / "good.parquet", [good])
    make(tmp_path / "in", good)
    before = tree(tmp_path)
    assert run(article_onnx, tmp_path / "in", tmp_path / "out") == code
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert "error: Unexpected" not in printed.err
    assert "\x1b[31m" not in printed.out + printed.err
    if code == 2:
        assert tree(tmp_path) == before
        return
    assert {name.split("/")[0] for name in tree(tmp_path) - before} == {"out"}
    assert check_results(tmp_path / "out", str(tmp_path / "in")).problems == ()
    table = read_results(tmp_path / "out")
    found = {entry["values"]: entry["counts"] for entry in table["status"].value_counts().to_pylist()}
    found["ok"] -= 1  # the good shard
    assert {status: count for status, count in found.items() if count} == statuses


def test_an_input_that_is_one_unreadable_file_is_refused(
    article_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert run(article_onnx, tmp_path / "x.parquet", tmp_path / "out") == 2
    assert "None of the 1 file(s)" in capsys.readouterr().err
    assert tree(tmp_path) == {"x.parquet"}


def test_a_glob_cannot_lead_results_out_of_output(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in" / "a" / "x.parquet", [encode(digits[0])])
    write_shard(tmp_path / "y.parquet", [encode(digits[0])])
    before = tree(tmp_path)
    assert run(article_onnx, f"{tmp_path}/in/*/../../*.parquet", tmp_path / "out" / "deep") == 2
    assert "has `..` after a wildcard" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_link_within_output_cannot_lead_results_out_of_it(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in" / "sub" / "x.parquet", [encode(digits[0])])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    assert run(article_onnx, tmp_path / "in", tmp_path / "out") == 2
    assert "would be outside OUTPUT" in capsys.readouterr().err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["_manifest.jsonl", "_quarantine.pq", "_run.json", "_lock", ".oodscreen-0123.parquet"])
def test_a_shard_cannot_take_a_name_that_output_needs(
    name: str, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in" / name, [encode(digits[0])])
    assert run(article_onnx, tmp_path / "in" / name, tmp_path / "out") == 2
    assert "is reserved for a file of OUTPUT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Models.


def external(model: onnx.ModelProto) -> None:
    """Move the first weight to a system file, according to the model."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def external_attribute(model: onnx.ModelProto) -> None:
    """An external tensor in a node's attribute, which few checkers test."""
    node = model.graph.node.add(op_type="Constant", output=["hidden"])
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    node.attribute.append(onnx.helper.make_attribute("value", tensor))


def gigantic(model: onnx.ModelProto) -> None:
    """A weight whose shape has 2 ** 60 elements, without data."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    del tensor.dims[:]
    tensor.dims.extend([2**30, 2**30])


def cut_weight(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = tensor.raw_data[:-4]


def put_metadata(key: str, value: str | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for index, entry in enumerate(model.metadata_props):
            if entry.key == f"oodscreen.{key}":
                if value is None:
                    del model.metadata_props[index]
                else:
                    entry.value = value
                return
        raise KeyError(key)

    return change


def drop_a_node(model: onnx.ModelProto) -> None:
    del model.graph.node[0]


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Launch"


def no_sites(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain == "oodscreen":
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]


MODELS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a weight in a system file": (external, "not a regular file in the model's folder, or a key is unknown"),
    "a constant in another file": (external_attribute, "not a regular file in the model's folder, or a key is unknown"),
    "a weight of 2 ** 60 numbers": (gigantic, "wanted:"),
    "a truncated weight": (cut_weight, "wanted:"),
    "no metadata": (lambda model: model.ClearField("metadata_props"), "no oodscreen contract"),
    "no output kind": (put_metadata("output_kind", None), "damaged oodscreen contract"),
    "an unknown output kind": (put_metadata("output_kind", "magic"), "damaged oodscreen contract"),
    "an unknown contract version": (put_metadata("contract_version", "99"), "contract version 99"),
    "an image shape that is not JSON": (put_metadata("image_shape", "[28, 28"), "damaged oodscreen contract"),
    "a negative image shape": (put_metadata("image_shape", "[-28, 28, 1]"), "wanted:"),
    "an image shape that differs from that of the graph": (put_metadata("image_shape", "[32, 32, 1]"), "wanted:"),
    "an input that the graph does not have": (put_metadata("input_name", "picture"), "wanted:"),
    "an output that the graph does not have": (put_metadata("output_name", "answer"), "wanted:"),
    "dropout sites that the graph does not have": (no_sites, "wanted:"),
    "an unknown operator": (unknown_operator, "wanted:"),
    "a missing node": (drop_a_node, "wanted:"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused_before_anything_is_written(
    name: str, article_onnx: Path, digit_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = MODELS[name]
    model = onnx.load(article_onnx)
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    code = run(tmp_path / "m.onnx", digit_shards / "c.parquet", tmp_path / "out")
    printed = capsys.readouterr().err
    assert message in printed
    assert "error: Unexpected" not in printed
    assert code == 2
    assert tree(tmp_path) == {"m.onnx"}


@pytest.mark.parametrize("data", [b"", b"\0" * 1000, b"\x80\x04\x95pickle.", b"PK\x03\x04", b"\xff" * 5000])
def test_what_is_no_model_is_refused(
    data: bytes, digit_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert run(tmp_path / "m.onnx", digit_shards, tmp_path / "out") == 2
    assert "oodscreen export" in capsys.readouterr().err
    assert tree(tmp_path) == {"m.onnx"}


def test_half_a_model_is_refused(article_onnx: Path, digit_shards: Path, tmp_path: Path) -> None:
    shutil.copy(article_onnx, tmp_path / "m.onnx")
    change_bytes(tmp_path / "m.onnx", lambda data: data[: len(data) // 2])
    assert run(tmp_path / "m.onnx", digit_shards, tmp_path / "out") == 2
    assert tree(tmp_path) == {"m.onnx"}


# Mutations.


def fuzz(model: Path, results: Path, *words: str) -> dict[str, Any]:
    """Run `benchmarks/fuzz.py` in a separate process, which exits with 0 only if nothing crashed, hung or was lost."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--model", str(model), "--results", str(results), *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(results.read_text())
    return result


def test_mutated_images_and_shards_crash_nothing_and_lose_no_row(article_onnx: Path, tmp_path: Path) -> None:
    words = ["--images", "300", "--files", "15", "--trees", "20", "--seed", "1", "--keep", str(tmp_path / "kept")]
    result = fuzz(article_onnx, tmp_path / "result.json", *words)
    assert sum(result["images_by_status"].values()) == 300
    assert sum(result["files_by_outcome"].values()) == 15
    assert result["images_by_status"]["ok"] > 30  # so that mutations reach the decoders, not the signature test alone


@pytest.mark.integration
def test_other_mutations_every_time(article_onnx: Path, tmp_path: Path) -> None:
    seed = str(int.from_bytes(os.urandom(3)))
    words = ["--images", "2000", "--files", "100", "--seed", seed, "--keep", str(tmp_path / "kept")]
    fuzz(article_onnx, tmp_path / "result.json", *words)
