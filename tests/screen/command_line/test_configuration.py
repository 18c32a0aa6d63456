from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import oodscreen
from tests.screen.decide.test_calibration import make_calibration


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("night.toml").write_text(text)
    return "night.toml"


def show(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    assert oodscreen(*words, "--print-config", monkeypatch=monkeypatch) == 0
    return capsys.readouterr().out


def line(text: str, key: str) -> str:
    (found,) = (one for one in text.splitlines() if one.removeprefix("# ").split(" ")[0] == key)
    return " ".join(found.split())


def test_the_command_line_overrides_the_environment_which_overrides_the_file_and_that_the_calibration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = make_calibration()
    calibration.save(Path("cal"))
    settings = calibration.binding.settings
    words = ["run"]
    assert line(show(*words, monkeypatch=monkeypatch, capsys=capsys), "passes") == "# passes = 100 # default"
    words += ["--calibration", "cal"]
    shown = show(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert line(shown, "passes") == f"# passes = {settings.passes} # calibration cal"
    words += ["--config", write("[run]\npasses = 11")]
    assert line(show(*words, monkeypatch=monkeypatch, capsys=capsys), "passes") == "passes = 11 # file night.toml"
    monkeypatch.setenv("OODSCREEN_RUN_PASSES", "12")
    shown = show(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert line(shown, "passes") == "passes = 12 # environment variable OODSCREEN_RUN_PASSES"
    shown = show(*words, "-T", "13", monkeypatch=monkeypatch, capsys=capsys)
    assert line(shown, "passes") == "passes = 13 # command line"
    assert line(shown, "seed") == f"# seed = {settings.seed} # calibration cal"


COMMANDS = ["export", "run", "check", "forget", "calibrate", "inspect", "report", "evaluate", "queue", "labels",
            "doctor", "demo"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_configuration_without_required_arguments(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = show(command, monkeypatch=monkeypatch, capsys=capsys)
    assert tomllib.loads(shown) == {command: {}}
    assert "# " in shown


def test_a_printed_configuration_sets_the_same_values_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "a model.onnx", "in", '#o"ut\\ \x7fü\n', "--keep", "a,b", "--keep", "c", "--adaptive", "-T", "7"]
    monkeypatch.setenv("OODSCREEN_RUN_MAX_BAD_ROWS", "2%")
    first = show(*words, monkeypatch=monkeypatch, capsys=capsys)
    values = tomllib.loads(first)["run"]
    assert values == {
        "model": "a model.onnx", "input": "in", "output": "#o\"ut\\ \x7fü\n", "keep": ["a,b", "c"], "adaptive": True,
        "passes": 7, "max_bad_rows": "2%",
    }  # fmt: skip
    monkeypatch.delenv("OODSCREEN_RUN_MAX_BAD_ROWS")
    again = show("run", "--config", write(first), monkeypatch=monkeypatch, capsys=capsys)
    assert tomllib.loads(again)["run"] == values


def test_the_values_of_a_file_reach_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write('[check]\nresults = "no-such-results"\njson = true\n[run]\nkeep = "label"\n')
    assert oodscreen("check", "--config", file, monkeypatch=monkeypatch) == 2
    told = capsys.readouterr()
    assert "no-such-results" in told.err
    assert told.out.startswith('{"exit_code": 2')
    assert line(show("run", "--config", file, monkeypatch=monkeypatch, capsys=capsys), "keep").startswith(
        'keep = ["label"]'
    )


def test_a_file_is_used_only_if_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("oodscreen.toml", "config.toml", ".oodscreen.toml", "pyproject.toml"):
        Path(name).write_text("[run]\npasses = 3\n[tool.oodscreen.run]\npasses = 3")
    assert "passes = 3" not in show("run", monkeypatch=monkeypatch, capsys=capsys)
    monkeypatch.setenv("OODSCREEN_RUN_CONFIG", write("[run]\npasses = 3"))
    assert "passes = 3 " in show("run", monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize(
    ("text", "found", "next_step"),
    [
        ("[run]\npases = 3", "The key pases in [run] of night.toml is not an option", "rename the key to passes"),
        ("[run]\nreview-rate = 3", "The key review-rate in [run]", "move the line to the table [calibrate]"),
        ("[run]\nquux = 3", "The key quux in [run]", "see oodscreen run --help"),
        ('[run]\nconfig = "x"', "The key config in [run]", "write the option on the command line"),
        ("[calibrate]\npases = 3", "The key pases in [calibrate]", "rename the key to passes"),
        (
            "[rnu]\npasses = 3",
            "The name of the table [rnu] of night.toml is not a command",
            "rename the table to [run]",
        ),
        ("passes = 3", "The key passes of night.toml is not in a table", "write [run] in a line above"),
        ("[run]\nmax_pixels = 3\nmax-pixels = 3", "contains max_pixels and max-pixels", "remove one"),
        ('[run]\npasses = "3"', "The key passes in [run] of night.toml is '3' (a text)", "change the value"),
        ("[run]\npasses = true", "is true (a truth value)", "change the value"),
        ("[run]\npasses = 1.5", "is 1.5 (a number)", "change the value"),
        ('[run]\nadaptive = "yes"', "is 'yes' (a text)", "change the value"),
        ("[run]\nkeep = [true]", "is [True] (a list)", "change the value"),
        ("[run]\nimage_column = []", "is [] (a list)", "change the value"),
        (
            "[run]\npasses = 0",
            "--passes is set by the key passes in [run] of the file night.toml.",
            "give another value",
        ),
        (
            '[run]\nmasks = "both"',
            "set by the key masks in [run] of the file night.toml.",
            "give one of these",
        ),
        ('[run]\ndevice = "tpu"', "set by the key device in [run] of the file night.toml.", ""),
        ("[run", "The configuration file night.toml is not TOML", "correct the file"),
        ("[[run]]\npasses = 3", "[[run]] of night.toml is a table in an array", "write [run] with single brackets"),
        ('[run]\ncalibration = ""', "The key calibration in [run] of night.toml is ''", "change the value"),
        ('[run]\nkeep = ["a", ""]', "The key keep in [run] of night.toml is ['a', '']", "change the value"),
    ],
)
def test_a_wrong_configuration_file_is_refused(
    text: str, found: str, next_step: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("run", "m", "in", "out", "--config", write(text), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert found in told
    assert next_step in told.partition("next:")[2]
    assert not Path("out").exists()


@pytest.mark.parametrize(("name", "reason"), [("none.toml", "No such file"), (".", "is a folder"), ("x", "not TOML")])
def test_a_configuration_file_that_cannot_be_read_is_refused(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x").write_bytes(b"\xff\xfe")
    assert oodscreen("run", "--config", name, "--print-config", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr()
    assert f"The configuration file {name}" in told.err
    assert reason in told.err
    assert not told.out


def test_lists_may_stand_for_comma_separated_values_and_dates_for_their_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("[export]\nmean = [0.5, 0.25, 1]\n[forget]\nbefore = 2026-01-02\n")
    assert 'mean = "0.5,0.25,1"' in show("export", "--config", file, monkeypatch=monkeypatch, capsys=capsys)
    assert 'before = "2026-01-02"' in show("forget", "--config", file, monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("OODSCREEN_RUN_PASSES", "many", "--passes is 'many'."),
        ("OODSCREEN_RUN_ALARM", "perhaps", "--alarm is 'perhaps'."),
        ("OODSCREEN_RUN_MAX_BAD_ROWS", "many", "--max-bad-rows is 'many'."),
    ],
)
def test_a_wrong_value_in_the_environment_is_refused_with_its_variable(
    name: str, value: str, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert oodscreen("run", "m", "in", "out", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert found in told
    assert f"is set by the environment variable {name}." in told


@pytest.mark.parametrize("name", ["OODSCREEN_RUN_PASES", "OODSCREEN_PASSES"])
def test_a_variable_that_sets_no_option_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "3")
    monkeypatch.setenv("OODSCREEN_DATA", "folder of a developer")
    assert oodscreen("run", "--print-config", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    assert f"The environment variable {name} sets no option of `oodscreen run`" in told.err
    assert "OODSCREEN_RUN_PASSES" in told.err
    assert "OODSCREEN_DATA" not in told.err
    assert "passes = 3" not in told.out


def test_a_version_in_the_environment_and_a_byte_order_mark_change_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OODSCREEN_VERSION", "1")
    file = write("\ufeff[run]\npasses = 3")
    assert "passes = 3 " in show("run", "--config", file, monkeypatch=monkeypatch, capsys=capsys)


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "token-1234")
    monkeypatch.setenv("LABEL_STUDIO_URL", "https://me:sesame@host/")
    file = write('[queue]\nresults = "ftp://me:sesame@host/results"\n')
    shown = show("queue", "--config", file, monkeypatch=monkeypatch, capsys=capsys)
    assert "sesame" not in shown
    assert "token-1234" not in shown
    assert "# url contains a secret" in shown
    assert tomllib.loads(shown) == {"queue": {}}


def test_an_option_before_the_command_is_refused_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("--config", "night.toml", "run", monkeypatch=monkeypatch) == 2
    assert "write --config after the command: oodscreen COMMAND --config" in capsys.readouterr().err
