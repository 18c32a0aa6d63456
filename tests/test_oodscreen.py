"""The public module has the functions behind the commands, with the same names and defaults."""

from __future__ import annotations

import inspect
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.utils import get_params_from_function

import export.errors
import oodscreen
from tests.conftest import encode, read_results
from tests.conftest import oodscreen as command
from tests.reference import commands
from tests.stubs import STUB, stub_text

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "pack": oodscreen.pack,
    "export": oodscreen.export_file,
    "calibrate": oodscreen.calibrate,
    "run": oodscreen.run,
    "evaluate": oodscreen.evaluate,
    "report": oodscreen.report,
    "queue": oodscreen.queue,
    "labels": oodscreen.labels,
}
WITHOUT_FUNCTION = {
    "check": "reads files that a run wrote; a program reads the same from the summary of the run",
    "forget": "removes results, which a person decides",
    "inspect": "prints; a contract is `Screener.contract`",
    "doctor": "describes a machine to a person",
    "demo": "shows the commands",
}
"""Commands that have no function, with the reason."""

OF_THE_COMMAND_LINE = {
    "config": "a program has its own configuration",
    "json": "chooses what the command prints",
    "log_file": "a program sets up `logging`",
    "log_format": "a program sets up `logging`",
    "print_config": "prints",
    "quiet": "a program sets up `logging`",
    "verbose": "a program sets up `logging`",
}
"""Options that are no keyword, with the reason."""

CASES = sorted(FUNCTIONS)


def test_every_command_has_a_function_or_a_reason() -> None:
    assert {*FUNCTIONS, *WITHOUT_FUNCTION} == set(commands())


def options_of(name: str) -> dict[str, Any]:
    """Options of a command by the names of their keywords."""
    options = {}
    for one in commands()[name].params:
        if one.param_type_name == "option" and not one.hidden and one.name not in OF_THE_COMMAND_LINE:
            long = next(option for option in one.opts if option.startswith("--"))
            options[long.removeprefix("--").replace("-", "_")] = one
    return options


@pytest.mark.parametrize("name", CASES)
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    arguments = [one for one in commands()[name].params if one.param_type_name == "argument"]
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters)
    options = dict.fromkeys(options_of(name))
    for given in parameters[: len(arguments)]:
        options.pop(given, None)
    assert set(parameters[len(arguments) :]) == set(options)


@pytest.mark.parametrize("name", CASES)
def test_a_function_has_the_defaults_of_its_command(name: str) -> None:
    """On the command line, the default of an option whose text is converted, or that may be repeated, is no value."""
    declared = get_params_from_function(commands()[name].callback)
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for keyword, option in options_of(name).items():
        ours = parameters[keyword].default
        if option.required:
            assert ours is inspect.Parameter.empty, keyword
        elif declared[option.name].default.default is not None:
            assert ours == option.default, keyword
        elif ours not in (None, ()):
            assert option.default is None, keyword
            assert option.show_default, f"--help does not show the default of {keyword}"


def test_a_model_in_memory_is_exported_with_the_options_of_a_file() -> None:
    of_file = dict(inspect.signature(oodscreen.export_file).parameters)
    of_model = dict(inspect.signature(oodscreen.export_model).parameters)
    assert set(of_file) - set(of_model) == {"weights", "custom_objects", "unsafe"}
    assert all(of_file[name] == parameter for name, parameter in of_model.items() if name != "model")


def test_the_module_has_every_error() -> None:
    errors = {name for name, one in vars(export.errors).items() if inspect.isclass(one) and issubclass(one, Exception)}
    assert errors <= set(oodscreen.__all__)
    assert all(getattr(oodscreen, name) is not None for name in oodscreen.__all__)
    assert dir(oodscreen) == sorted(oodscreen.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        oodscreen.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_stub_for_type_checkers_is_fresh() -> None:
    assert STUB.read_text(encoding="utf-8") == stub_text(), "run `make docs`"


def test_type_checkers_know_the_keywords_of_every_function() -> None:
    """mypy reports each of these comments that it does not need."""
    with pytest.raises(TypeError):
        oodscreen.pack("a", "b", rows=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.export_file("a", "b", scales=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.export_model("a", "b", weights="c")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.calibrate("a", "b")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.run("a", "b", "c", pases=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.evaluate("a", json="b")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.report("a", "b", tops=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.queue("a", "b")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        oodscreen.labels("a", "b", output="c", outputs="d")  # type: ignore[call-arg]
    with pytest.raises(oodscreen.OptionRefused):
        oodscreen.run("a", "b", "c", masks="some")  # type: ignore[arg-type]


def test_an_import_loads_no_library() -> None:
    code = (
        "import sys, oodscreen; oodscreen.OodscreenError; print(oodscreen.__version__);"
        "print(sorted({'numpy', 'onnxruntime', 'pyarrow', 'tensorflow', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_functions_do_what_the_commands_do_and_print_nothing(
    article_onnx: Path,
    digit_shards: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(digit_shards, tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    words = ["--passes", "3", "--device", "cpu", "--review-rate", "5%", "--detector", "entropy"]
    assert (
        command("calibrate", str(article_onnx), "shards", "-o", "by-command.cal", *words, monkeypatch=monkeypatch) == 0
    )
    options = ["--calibration", "by-command.cal", "--keep", "label", "--device", "cpu"]
    assert command("run", str(article_onnx), "shards", "by-command", *options, monkeypatch=monkeypatch) == 0
    logger = logging.getLogger("oodscreen")
    monkeypatch.setattr(logger, "handlers", [])  # those of the commands in this process
    monkeypatch.setattr(logger, "propagate", True)
    capfd.readouterr()
    with caplog.at_level(logging.INFO, "oodscreen"):
        fitted = oodscreen.calibrate(
            article_onnx, Path("shards"), "model.cal", passes=3, device="cpu", review_rate="5%", detector="entropy"
        )
        summary = oodscreen.run(
            article_onnx,
            Path("shards"),
            Path("results"),
            calibration=Path("model.cal"),
            keep="label",
            device="cpu",
            metrics="run.prom",
        )
    assert Path("model.cal").read_bytes() == Path("by-command.cal").read_bytes()
    assert fitted.calibration.review_rate == 0.05
    assert (summary.exit_code, summary.rows) == (0, 300)
    assert read_results(tmp_path / "results") == read_results(tmp_path / "by-command")
    assert 'oodscreen_run_rows{output="results"} 300.0' in Path("run.prom").read_text()
    page = oodscreen.report("results", "page.html", top=5)
    assert page.size == Path("page.html").stat().st_size
    assert len(page.findings.top_rows) == 5
    evaluation = oodscreen.evaluate("results", Path("by-command"), output="metrics.json")
    assert Path("metrics.json").read_text() == evaluation.to_json() + "\n"
    queued = oodscreen.queue("results", output=Path("queue.parquet"), top=4)
    assert pq.read_metadata("queue.parquet").num_rows == queued.handed_on == 4
    rows = pq.read_table("queue.parquet", columns=["shard", "row"])
    pq.write_table(rows.append_column("digit", [["3", "3", "unusable", "3"]]), "reviewed.parquet")
    joined = oodscreen.labels("reviewed.parquet", "results", "labels.parquet", label_column="digit")
    assert pq.read_metadata("labels.parquet").num_rows == joined.labelled == 4
    assert [record.levelname for record in caplog.records if "would be flagged" in record.message][:1] == ["WARNING"]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_images_are_packed_as_by_the_command(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        image = Path("photos", "cat" if number % 2 else "dog", f"{number}.png")
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(encode(np.full((4, 4, 3), number, dtype=np.uint8)))
    assert command("pack", "photos", "by-command", "--shard-rows", "3", monkeypatch=monkeypatch) == 0
    capfd.readouterr()
    summary = oodscreen.pack(Path("photos"), Path("shards"), shard_rows=3)
    assert (summary.rows, len(summary.shards), summary.labels) == (5, 2, (("cat", 2), ("dog", 3)))
    assert summary.exit_code == 0
    shards = {path.name: path.read_bytes() for path in Path("shards").glob("*.parquet")}
    assert shards == {path.name: path.read_bytes() for path in Path("by-command").glob("*.parquet")}
    assert len(shards) == 2
    assert oodscreen.pack("photos", "shards", shard_rows=3).skipped == 2
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_system_is_explained(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "shards/a.parquet")

    monkeypatch.setattr("screen.execution.run_screening", fail)
    with pytest.raises(oodscreen.OodscreenError) as caught:
        oodscreen.run(article_onnx, digit_shards, tmp_path / "results")
    assert "shards/a.parquet" in caught.value.found
