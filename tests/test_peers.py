"""`benchmarks/peers.py`: accepted and refused files, and measurements with the detectors of the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from benchmarks import peers
from benchmarks.peer_files import read_network
from export.errors import InputRefused

CLASSES, FEATURES, ROWS = 4, 32, 400

Change = Callable[[dict[str, NDArray[Any]]], None]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with one network: classes are clusters, `far` is a cluster without a class, `same` is like `test`."""
    rng = np.random.default_rng(0)
    centers = np.abs(rng.normal(0, 3, (CLASSES + 1, FEATURES))).astype(np.float32)
    weight, bias = centers[:-1], -0.5 * np.sum(centers[:-1] ** 2, axis=1)
    folder = tmp_path / "peers" / "small"
    folder.mkdir(parents=True)
    np.savez(folder / "weights.npz", weight=weight, bias=bias)
    for name in ("reference", "held", "test", "same", "far"):
        labels = rng.integers(0, CLASSES, ROWS)
        features = centers[np.full(ROWS, CLASSES) if name == "far" else labels]
        features = np.maximum(features + rng.normal(0, 1, features.shape).astype(np.float32), 0)
        arrays: dict[str, Any] = {"features": features, "logits": features @ weight.T + bias}
        np.savez(folder / f"{name}.npz", **arrays | ({"labels": labels} if name == "reference" else {}))
    return tmp_path


def change(work: Path, name: str, edit: Change) -> Path:
    """Edit the arrays of one file; returns the folder of the network."""
    path = work / "peers" / "small" / f"{name}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    edit(arrays)
    np.savez(path, **arrays)
    return path.parent


def library() -> None:
    """Skip the test where the library is missing."""
    reason = "pytorch-ood, which needs torch, is not installed: pip install 'oodscreen[peers]'"
    pytest.importorskip("pytorch_ood", reason=reason)


def area(known: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Area under the ROC curve, by comparing all pairs."""
    return float(np.mean(other[:, None] > known) + 0.5 * np.mean(other[:, None] == known))


def test_the_sets_of_a_network_are_read_by_file_name(work: Path) -> None:
    network = read_network(work / "peers" / "small")
    assert set(network.sets) == {"reference", "held", "test", "same", "far"}
    assert network.sets["far"].features.shape == (ROWS, FEATURES)
    assert network.sets["reference"].labels is not None
    assert network.sets["test"].labels is None


@pytest.mark.parametrize(
    ("name", "edit", "found"),
    [
        ("weights", lambda arrays: arrays.update(weight=arrays["weight"][::-1]), "logits that differ"),
        ("far", lambda arrays: arrays.update(features=arrays["features"][:, :-1]), "far.npz does not fit"),
        ("reference", lambda arrays: arrays.update(labels=arrays["labels"][:-1]), "399,) labels of 400 rows"),
        ("reference", lambda arrays: arrays.pop("labels"), "labels is not a file"),
        ("held", lambda arrays: arrays.update({key: one[:40] for key, one in arrays.items()}), "held.npz has 40 rows"),
    ],
)
def test_files_that_would_give_wrong_figures_are_refused(work: Path, name: str, edit: Change, found: str) -> None:
    with pytest.raises(InputRefused) as refused:
        read_network(change(work, name, edit))
    assert found in refused.value.found


def test_a_missing_file_is_refused_with_the_command_that_writes_it(work: Path) -> None:
    (work / "peers" / "small" / "held.npz").unlink()
    with pytest.raises(InputRefused) as refused:
        read_network(work / "peers" / "small")
    assert "held.npz" in refused.value.found
    assert "benchmarks.colour" in refused.value.next_step


def test_the_threshold_is_the_rank_of_a_calibration() -> None:
    held = np.arange(100.0)  # at 2 %, 2 of 101 ranks: rows above the second highest score are flagged
    scores = {"held": held, "test": np.array([0.0, 98.0, 98.5, 200.0]), "far": np.array([97.0, 98.0, 99.0, 100.0])}
    found = peers.compare(scores)
    assert found["known_flagged"] == 0.5
    assert found["sets"]["far"]["flagged"] == 0.5
    assert "error" not in found


def test_a_set_with_scores_that_are_not_finite_is_named_and_not_measured() -> None:
    rows = np.arange(100.0)
    found = peers.compare({"held": rows, "test": rows, "far": rows + 50, "flat": np.where(rows < 3, np.nan, rows)})
    assert set(found["sets"]) == {"far"}
    assert "3 of 100 of flat" in found["error"]
    assert "sets" not in peers.compare({"held": np.where(rows < 1, np.inf, rows), "test": rows, "far": rows})


def test_every_detector_of_the_library_is_measured_or_left_out_with_a_reason() -> None:
    library()
    left_out = peers.find_left_out()
    assert left_out == peers.LEFT_OUT
    assert not set(left_out) & {peer.kind for peer in peers.PEERS}


def test_scores_of_closed_form_agree_with_their_formulas(work: Path) -> None:
    library()
    network = read_network(work / "peers" / "small")
    measured = peers.measure_network(network)["detectors"]
    test, far = (network.sets[name].logits.astype(np.float64) for name in ("test", "far"))
    formulas: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
        "energy": lambda logits: -logsumexp(logits, axis=1),
        "max-logit": lambda logits: -logits.max(axis=1),
        "MSP": lambda logits: -softmax(logits, axis=1).max(axis=1),
    }
    for name, score in formulas.items():
        assert measured[name]["sets"]["far"]["auroc"] == pytest.approx(area(score(test), score(far)), abs=1e-4), name
    unit = {name: one.features / np.linalg.norm(one.features, axis=1)[:, None] for name, one in network.sets.items()}
    reference = unit["reference"]
    distances = {
        name: np.sort(np.linalg.norm(unit[name][:, None] - reference, axis=2), axis=1)[:, 49]
        for name in ("held", "test", "same")
    }
    knn = measured["KNN"]
    assert knn["hyperparameters"] == {"k": 50}
    assert knn["sets"]["same"]["auroc"] == pytest.approx(area(distances["test"], distances["same"]), abs=1e-4)
    threshold = np.sort(distances["held"])[-8]  # 8 of 401 ranks are at most 2 %
    assert knn["sets"]["same"]["flagged"] == pytest.approx(np.mean(distances["same"] > threshold), abs=1e-6)


def test_each_detector_gives_figures_and_distances_find_rows_far_from_all_classes(work: Path) -> None:
    library()
    measured = peers.measure_network(read_network(work / "peers" / "small"))["detectors"]
    assert set(measured) == {peer.name for peer in peers.PEERS}
    for name, one in measured.items():
        assert "error" not in one, (name, one["error"])
        assert set(one["sets"]) == {"same", "far"}
        assert abs(one["sets"]["same"]["auroc"] - 0.5) < 0.1, name
        assert one["known_flagged"] < 0.08, name
    for name in ("KNN", "ViM", "Mahalanobis", "relative Mahalanobis", "GMM"):
        assert measured[name]["sets"]["far"] == {"auroc": 1.0, "fpr95": 0.0, "flagged": 1.0}, name


def test_a_detector_that_fails_has_an_error_and_the_others_are_measured(work: Path) -> None:
    library()
    folder = change(work, "reference", lambda arrays: arrays.update(labels=np.full(ROWS, 1)))
    measured = peers.measure_network(read_network(folder))["detectors"]
    assert measured["Mahalanobis"]["error"].startswith("AssertionError")
    assert "sets" not in measured["Mahalanobis"]
    assert set(measured["KNN"]["sets"]) == {"same", "far"}


def test_the_result_names_versions_networks_and_left_out_detectors(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library()
    monkeypatch.setattr(peers, "RESULT", tmp_path / "peers.json")
    monkeypatch.setattr(sys, "argv", ["peers", "--work", str(work)])
    peers.main()
    result = json.loads((tmp_path / "peers.json").read_text())
    assert result["networks"]["small"]["rows"]["far"] == ROWS
    assert result["networks"]["small"]["detectors"]["KNN"]["sets"]["far"]["auroc"] == 1.0
    assert result["left_out"]["ODIN"]
    assert result["versions"]["pytorch-ood"]
