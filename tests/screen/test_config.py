from __future__ import annotations

from typing import Any, get_args

import pytest

from export.errors import OptionRefused
from screen.config import RunConfig
from screen.decide.config import FEATURE_GROUPS, CalibrationConfig, DistanceChoice
from screen.device import DeviceRequest
from screen.engine.distance import DISTANCES, Metric, group_of
from screen.settings.bad_rows import BadRowLimit
from screen.settings.passes import PassSettings


@pytest.mark.parametrize(
    ("text", "bad", "rows", "is_exceeded"),
    [
        ("1%", 1, 100, False),
        ("1%", 2, 100, True),
        ("0%", 0, 10, False),
        ("0%", 1, 10**9, True),
        ("0.5 %", 5, 1000, False),
        ("0.5%", 6, 1000, True),
        ("3", 3, 3, False),
        ("3", 4, 10**9, True),
        ("0", 1, 2, True),
        ("100%", 5, 5, False),
        ("1%", 0, 0, False),
        ("0.07", 7, 100, False),
        ("0.07", 8, 100, True),
    ],
)
def test_bad_rows_are_too_many_above_the_limit_and_not_at_it(text: str, bad: int, rows: int, is_exceeded: bool) -> None:
    assert BadRowLimit.parse(text).is_exceeded(bad, rows) is is_exceeded


@pytest.mark.parametrize("text", ["", "%", "-1", "101%", "1.0", "1.5", "1e3", "many", "1%%", "0x10", "٣", "nan%"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--max-bad-rows is"):
        RunConfig(max_bad_rows=text)


def test_an_unknown_kind_of_force_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--force is 'some'"):
        RunConfig(force="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "found", "wanted"),
    [
        ({"passes": 0}, "--passes is 0.", "a whole number, 1 to 1000000"),
        ({"passes": 2**63}, f"--passes is {2**63}.", "a whole number, 1 to 1000000"),
        ({"seed": -1}, "--seed is -1.", "a whole number, 0 or more"),
        ({"seed": 2**64}, f"--seed is {2**64}.", "a whole number, 0 or more"),
        ({"batch_size": 0}, "--batch-size is 0.", "a whole number, 1 to 1048576"),
        ({"max_pixels": 0}, "--max-pixels is 0.", "a whole number, 1 to 178956970"),
        ({"threads": -1}, "--threads is -1.", "a whole number, 0 to 1024"),
        ({"threads": 2**63}, f"--threads is {2**63}.", "a whole number, 0 to 1024"),
        ({"memory": 0}, "--memory is 0.", "a whole number, 1 to 16777216"),
        ({"masks": "some"}, "--masks is 'some'.", "shared or per-row or none"),
        (
            {"device": "tpu"},
            "--device is 'tpu'.",
            "auto, cpu, cuda (the first GPU) or cuda:N (GPU number N, counted from 0)",
        ),
        ({"engine": "spark"}, "--engine is 'spark'.", "local or ray"),
        ({"force": "some"}, "--force is 'some'.", "all or quarantined"),
    ],
)
def test_values_from_python_are_checked_as_those_of_the_command_line(
    values: dict[str, Any], found: str, wanted: str
) -> None:
    with pytest.raises(OptionRefused) as caught:
        RunConfig(**values)
    assert (caught.value.found, caught.value.wanted) == (found, wanted)


@pytest.mark.parametrize("rate", [-0.1, 0.0, 1e-300, 1.0, 2.0, float("nan")])
def test_a_review_rate_is_a_share_above_0_and_below_1(rate: float) -> None:
    with pytest.raises(OptionRefused, match="--review-rate is"):
        CalibrationConfig(rate)


def test_features_are_known_and_exclude_a_list_of_detectors() -> None:
    assert CalibrationConfig(features="layout").features == ("layout",)
    with pytest.raises(OptionRefused, match="layout or contrast or penultimate"):
        CalibrationConfig(features=("layout", "trunk"))
    with pytest.raises(OptionRefused, match="--detector and --features were both given"):
        CalibrationConfig(features=("layout",), detectors=("entropy",))


def test_the_choices_of_options_are_those_that_the_code_knows() -> None:
    assert get_args(DistanceChoice) == get_args(Metric)
    assert tuple(group_of(name) for name in DISTANCES) == FEATURE_GROUPS


def test_columns_to_keep_are_kept_once_and_in_order() -> None:
    assert RunConfig(keep=["b", "a", "b"]).keep == ("b", "a")


def test_one_name_is_one_name_and_not_its_letters() -> None:
    assert RunConfig(keep="label").keep == ("label",)
    assert CalibrationConfig(0.02, detectors="entropy").detectors == ("entropy",)


@pytest.mark.parametrize(("text", "name", "index"), [("auto", "auto", 0), ("cuda", "cuda", 0), ("cuda:12", "cuda", 12)])
def test_a_device_has_a_name_and_a_number(text: str, name: str, index: int) -> None:
    assert DeviceRequest.parse(text) == DeviceRequest(name, index)


@pytest.mark.parametrize(
    "text", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:99999", "cuda:\u0663"]
)
def test_another_device_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--device is"):
        RunConfig(device=text)


def test_on_ray_a_gpu_has_no_number() -> None:
    RunConfig(engine="ray", device="cuda")
    with pytest.raises(OptionRefused, match="--device is cuda:1, and --engine is ray"):
        RunConfig(engine="ray", device="cuda:1")


def test_float32_is_the_precision_of_files_that_name_none() -> None:
    """The identity of a run and the bytes of a calibration are those of versions without the option."""
    assert PassSettings().to_json() == {"passes": 100, "seed": 0, "masks": "shared"}
    assert PassSettings(precision="tf32").to_json()["precision"] == "tf32"
    assert PassSettings(**PassSettings().to_json()).precision == "float32"


def test_the_precision_is_that_of_the_calibration_unless_it_is_given() -> None:
    calibrated = PassSettings(precision="tf32")
    assert RunConfig().settings(calibrated).precision == "tf32"
    assert RunConfig(precision="float32").settings(calibrated).precision == "float32"
    assert RunConfig().settings().precision == "float32"


def test_tf32_on_the_cpu_is_refused() -> None:
    with pytest.raises(OptionRefused, match="The precision is tf32"):
        RunConfig(device="cpu", precision="tf32")
