"""The verdicts of the benchmark on dropout, and its tables from results that are small enough to calculate by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.dropout import LEAST, choose_rate, judge, summarize
from benchmarks.dropout_measures import measure_mean
from benchmarks.dropout_networks import set_rate
from export.contract.reader import read_model
from export.graph.passes import stamp_metadata
from tests.dropout_table import dropout_tables
from tests.screen.engine.graphs import Graph


def test_a_way_is_better_only_for_every_seed_and_by_enough() -> None:
    base = [0.9, 0.8, 0.7]
    assert judge([0.92, 0.81, 0.71], base, "auroc") == "better"
    assert judge([0.99, 0.9, 0.7], base, "auroc") == "no difference"
    assert judge([0.901, 0.801, 0.701], base, "auroc") == "no difference"
    assert judge([0.88, 0.79, 0.69], base, "auroc") == "worse"


def test_a_low_likelihood_and_a_low_calibration_error_are_better() -> None:
    for measure in ("nll", "ece"):
        assert judge([0.1, 0.1], [0.2, 0.3], measure) == "better"
        assert judge([0.2, 0.3], [0.1, 0.1], measure) == "worse"


def test_the_chosen_rate_has_the_smallest_likelihood_on_held_out_rows() -> None:
    ways: dict[str, Any] = {
        "a 0.1": {"held": {"nll": 0.3}, "test": {"nll": 0.1}},
        "a 0.5": {"held": {"nll": 0.2}, "test": {"nll": 0.9}},
        "no dropout": {"held": {"nll": 0.1}},
    }
    assert choose_rate(ways, {"a": (0.1, 0.5)}) == "a 0.5"


def test_accuracy_likelihood_and_calibration_error_are_those_of_the_mean() -> None:
    mean = np.array([[0.8, 0.2], [0.4, 0.6]])
    found = measure_mean(mean, np.array([0, 0]))
    assert found["accuracy"] == 0.5
    assert found["nll"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert found["ece"] == pytest.approx((0.2 + 0.6) / 2)


def test_a_model_with_another_rate_has_it_in_its_graph_and_in_its_contract(tmp_path: Path) -> None:
    g = Graph()
    model = g.finish(g.dense(g.site(g.flat(), 48, rate=0.5), 48, 3), 3)
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, tmp_path / "m.onnx")
    set_rate(tmp_path / "m.onnx", 0.125, tmp_path / "other.onnx")
    changed = read_model(tmp_path / "other.onnx")  # refuses a graph and a contract with different rates
    assert changed.contract == replace(model.contract, sites=(replace(model.contract.sites[0], rate=0.125),))


def test_the_tables_show_means_with_the_signs_of_the_verdicts() -> None:
    def measured(auroc: float, nll: float) -> dict[str, Any]:
        one = {"sets": {"kind near": {"auroc": auroc, "flagged": 0.25}}}
        scores = dict.fromkeys(("ood_score", "distances", "entropy", "mutual_information"), one)
        mean = {"accuracy": 0.9, "nll": nll, "ece": 0.05}
        return {"passes": 1, "test": mean, "held": mean, "known_flagged": 0.02, "scores": scores}

    seeds = [
        {"no dropout": measured(0.8, 0.3), "c 0.1": {**measured(0.9, 0.5), "passes": 20}},
        {"no dropout": measured(0.6, 0.3), "c 0.1": {**measured(0.7, 0.5), "passes": 20}},
    ]
    ways = summarize(seeds, ["near"])
    task = {"kinds": {"near": ["x"]}, "chosen": ["c 0.1", "c 0.1"]}
    task |= {"trained with dropout": ways, "trained without dropout": ways}
    result = {"tasks": {"T": task}, "least": LEAST, "rows": {"known": 9, "others": 9, "reference": 9}}
    result |= {"review_rate": 0.02, "trained_rates": {"T": {"blocks": 0.1}}}
    text = dropout_tables(result)
    assert "| with | no dropout, T = 1 | 90.0 | 0.300 | 5.0 | 70.0 / 25 |" in text
    assert "| without | injected: c 0.1, T = 20 | 90.0 | 0.500 - | 5.0 | 80.0 + / 25 |" in text
    assert "| without | injected: c 0.1, T = 20 | 80.0 + / 80.0 |" in text
