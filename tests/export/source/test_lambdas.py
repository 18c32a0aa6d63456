"""Code in Lambda layers: refused without `--unsafe`; with `--unsafe`, refused if it is of another Python version."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from export.errors import ModelRefused
from export.source.lambdas import check_code
from export.source.load import load_model
from tests.export import family, keras_2

CODES = (
    (
        "2.7",
        "Python 2",
        "YwEAAAABAAAAAgAAAEMAAABzCAAAAHwAAGQBABVTKAIAAABOZwAAAAAA4G9AKAAAAAAoAQAAAHQBAAAAeCgAAAAAKAAAAABzEgAA"
        "AC90bXAvdy9rMmYvbGFteC5weXQIAAAAPGxhbWJkYT4CAAAAdAAAAAA=",
    ),
    (
        "3.7",
        "Python 3.7 or earlier",
        "4wEAAAAAAAAAAQAAAAIAAABDAAAAcwgAAAB8AGQBGwBTACkCTucAAAAAAOBvQKkAKQHaAXhyAgAAAHICAAAA+hIvdG1wL3cvazJm"
        "L2xhbXgucHnaCDxsYW1iZGE+AgAAAPMAAAAA",
    ),
    (
        "3.8",
        "Python 3.8, 3.9 or 3.10",
        "4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMIAAAAfABkARsAUwApAk7nAAAAAADgb0CpAKkB2gF4cgIAAAByAgAAAPoRL3RtcC93"
        "L2syZi9sYW0ucHnaCDxsYW1iZGE+AgAAAPMAAAAA",
    ),
    (
        "3.10",
        "Python 3.8, 3.9 or 3.10",
        "4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMIAAAAfABkARsAUwApAk7nAAAAAADgb0CpAKkB2gF4cgIAAAByAgAAAPoRL3RtcC93"
        "L2syZi9sYW0ucHnaCDxsYW1iZGE+AgAAAHMCAAAACAA=",
    ),
    (
        "3.11",
        "another version of Python since 3.11",
        "4wEAAAAAAAAAAAAAAAYAAAADAAAA824AAACXAHQBAAAAAAAAAAAAAHwAZABkAIUCZAFmAhkAAAAAAAAAAACmAQAAqwEAAAAAAAAA"
        "AHQDAAAAAAAAAAAAAHQFAAAAAAAAAAAAAHwApgEAAKsBAAAAAAAAAACmAQAAqwEAAAAAAAAAAHoAAABTACkCTukAAAAAKQPaA2Fi"
        "c9oDbGVu2gNzdHIpAdoBeXMBAAAAIPoRL3RtcC93L2syZi9sYW0ucHn6CDxsYW1iZGE+cggAAAACAAAAcykAAACAALUjsGG4AbgB"
        "uAG4MbgEtGexLLQsvXPFM8BxwTbENrl7vHvRMkqAAPMAAAAA",
    ),
    (
        "3.12",
        "another version of Python since 3.11",
        "4wEAAAAAAAAAAAAAAAYAAAADAAAA81AAAACXAHQBAAAAAAAAAAB8AGQAZACFAmQBZgIZAAAAqwEAAAAAAAB0AwAAAAAAAAAAdAUA"
        "AAAAAAAAAHwAqwEAAAAAAACrAQAAAAAAAHoAAABTACkCTukAAAAAKQPaA2Fic9oDbGVu2gNzdHIpAdoBeXMBAAAAIPoRL3RtcC93"
        "L2syZi9sYW0ucHn6CDxsYW1iZGE+cggAAAACAAAAcx8AAACAALQjsGG6AbgxuASxZ7MsvHPEM8Bxwza7e9EySoAA8wAAAAA=",
    ),
    (
        "3.13",
        "another version of Python since 3.11",
        "4wEAAAAAAAAAAAAAAAYAAAADAAAA81AAAACVAFsBAAAAAAAAAABVAFMAUwAyAlMBNAIFAAAANQEAAAAAAABbAwAAAAAAAAAAWwUA"
        "AAAAAAAAAFUANQEAAAAAAAA1AQAAAAAAAC0AAAAkACkCTukAAAAAKQPaA2Fic9oDbGVu2gNzdHIpAdoBeXMBAAAAINoRL3RtcC93"
        "L2syZi9sYW0ucHnaCDxsYW1iZGE+cggAAAACAAAAcx0AAACAALQjsGG6AbgxuASxZ7MsvHPEM8Bxwza7e9IySvMAAAAA",
    ),
)
"""Version of Python, its name in messages, and a function that it compiled: `lambda x: x / 255.0`; since 3.11
`lambda y: abs(y[:, 0]) + len(str(y))`, whose instructions differ between these versions."""

THIS = ".".join(platform.python_version_tuple()[:2])


def of_keras_2(code: str) -> dict[str, Any]:
    return {"class_name": "Lambda", "config": {"name": "scale", "function": [code, None, None]}}


def of_keras_3(code: str) -> dict[str, Any]:
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    return {"class_name": "Lambda", "config": {"name": "scale", "function": function}}


@pytest.mark.parametrize("described", [of_keras_2, of_keras_3])
@pytest.mark.parametrize(("version", "name", "code"), CODES)
def test_code_of_another_python_is_refused_by_its_version(described: Any, version: str, name: str, code: str) -> None:
    path, config = Path("model.h5"), {"layers": [described(code)]}
    with pytest.raises(ModelRefused, match="contains code that loading would run: scale"):
        check_code(config, path, unsafe=False)
    if version == THIS:
        check_code(config, path, unsafe=True)
        return
    with pytest.raises(ModelRefused) as caught:
        check_code(config, path, unsafe=True)
    assert f"a Lambda layer with code that {name} compiled; the installed Python {platform.python_version()}" in str(
        caught.value
    )


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_code_of_this_python_in_a_file_of_keras_2_is_run(keras: Any, name: str, tmp_path: Path) -> None:
    model = keras_2.made(family.with_lambda)
    path = keras_2.save(model, tmp_path / name)
    with pytest.raises(ModelRefused, match="contains code that loading would run"):
        load_model(path)
    keras_2.check(model, path, unsafe=True)


def test_the_advice_for_code_of_another_python_ends_in_the_same_model(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras_2.made(family.with_lambda)
    path = keras_2.save(model, tmp_path / "old.h5")

    def change(config: dict[str, Any]) -> Any:
        for one in config["config"]["layers"]:
            if one["class_name"] == "Lambda":
                one["config"]["function"] = [CODES[2][2], None, None]
        return json.loads(json.dumps(config))

    keras_2.edit_config(path, change, "2.4.0")
    with pytest.raises(ModelRefused, match="compiled") as refused:
        load_model(path, unsafe=True)
    keras_2.follow(str(refused.value), tmp_path, monkeypatch, model=family.with_lambda(keras))
    keras_2.check(model, tmp_path / "old-rebuilt.keras", unsafe=True)


def test_the_advice_for_code_of_another_python_in_a_file_of_keras_3_ends_in_a_model(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family.with_lambda(keras).save(tmp_path / "old.keras")
    monkeypatch.setattr("export.source.lambdas._is_of_this_python", lambda _code: False)
    with pytest.raises(ModelRefused, match="compiled") as refused:
        load_model(tmp_path / "old.keras", unsafe=True)
    keras_2.follow(str(refused.value), tmp_path, monkeypatch, model=family.with_lambda(keras))
    monkeypatch.undo()
    assert load_model(tmp_path / "old-rebuilt.keras", unsafe=True).classes == 4
