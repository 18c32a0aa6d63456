"""The tables of colour networks, from results that are small enough to calculate by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.colour_tables import (
    choice_table,
    colour_combinations_table,
    colour_networks_table,
    colour_shift_table,
    peers_table,
    review_rates_table,
    self_test_table,
)


@pytest.fixture
def result() -> dict[str, Any]:
    def score(auroc: float) -> dict[str, Any]:
        one = {"auroc": auroc, "flagged": [0.5, 0.7]}
        other = {"auroc": auroc - 0.1, "flagged": [0.3, 0.7]}
        sets = {"a": one, "b": other, "control near": one}
        return {"sets": sets, "review": [0.021, 0.05], "choosing": {"auroc": auroc, "flagged": [0.25, 0.5]}}

    ways = ("sum", "maximum", "Cauchy", "harmonic mean", "Euclidean norm", "logistic regression")
    flags = [{"share": 0.0, "flagged": None, "others": 0.9}, {"share": 0.5, "flagged": 0.2, "others": 0.6}]
    shift = {
        "accuracy": [0.9, 0.4],
        "flags": {"ood_score": flags},
        "areas": {"entropy": 0.3, "ood_score": 0.2, "errors last": 0.1},
    }
    network = {
        "accuracy": 0.75,
        "detectors": ["entropy", "one_distance", "other_distance"],
        "scores": {
            "entropy": score(0.7),
            "one_distance": score(0.8),
            "other_distance": score(0.85),
            "entropy + one_distance": score(0.9),
            "ood_score": score(0.95),
            **{way: score(0.6) for way in ways},
        },
        "shift": {"blur": shift},
        "review_rates": [
            {
                "promised": 0.02,
                "level": 0.95,
                "halvings": 200,
                "digest_order": {"inside": 177, "mean": 0.0229},
                "own_order": {"inside": 192, "mean": 0.0198},
            }
        ],
    }
    return {
        "networks": {"small": network},
        "reported": {"far": ["a", "b"]},
        "control": ["control in-distribution", "control near"],
        "choosing": ["shapes"],
        "synthetic": ["inverted"],
        "shifts": {"blur": {"unit": "pixels", "strengths": [0.5, 1.0]}},
        "passes": 30,
        "review_rates": [0.02, 0.05],
    }


def test_a_row_has_the_means_over_the_sets_of_a_kind(result: dict[str, Any]) -> None:
    table = colour_networks_table(result)
    assert "| small | `entropy` | 65.0 / 40 | 70.0 / 50 |" in table
    assert "| small | `entropy` + `one_distance` | 85.0 / 40 | 90.0 / 50 |" in table
    assert "| small | **`ood_score`** | 90.0 / 40 | 95.0 / 50 |" in table
    assert table.count("| small |") == 5
    assert (
        "The accuracies of the networks are: small 75.0%. The shares of flagged in-distribution rows are: small 2.10%."
        in table
    )


def test_both_orders_stand_beside_the_nominal_level(result: dict[str, Any]) -> None:
    mnist = {"review_rates": [{**result["networks"]["small"]["review_rates"][0], "promised": 0.01}], "rows": 10_000}
    table = review_rates_table(mnist, result)
    assert (
        "| network | target rate | nominal level | within the interval, digest order | within the interval, own order "
        "| flagged, digest order | flagged, own order |\n"
    ) in table
    assert "| small | 2% | 95% | 88.5% | 96.0% | 2.29% | 1.98% |" in table
    assert "| article | 1% | 95% | 88.5% | 96.0% | 2.29% | 1.98% |" in table
    assert "share of the 200 halvings" in table


def test_combinations_are_shown_on_the_choosing_sets(result: dict[str, Any]) -> None:
    assert "| sum | 60.0 / 25 |" in colour_combinations_table(result)


def test_variants_have_a_column_for_each_network(result: dict[str, Any]) -> None:
    def variant(label: str, auroc: float) -> dict[str, Any]:
        return {"distance": "one_distance", "variant": label, "auroc": auroc, "fpr95": 0.1}

    result["networks"]["small"]["choice"] = [variant("default", 0.8), variant("k = 1", 0.7)]
    mnist = {"choice": [variant("default", 0.9)], "choosing": ["flipped"]}
    table = choice_table(mnist, result)
    assert "| distance | variant | article | small |" in table
    assert "| `one_distance` | default | 90.0 / 10.0 | 80.0 / 10.0 |" in table
    assert "| `one_distance` | k = 1 | - | 70.0 / 10.0 |" in table


def test_accuracies_of_all_strengths_are_weighted_by_their_rows(result: dict[str, Any]) -> None:
    # Others: 1 of 1 and half of the rows, so (0.9 + 0.5 * 0.6) / 1.5 = 80 %.
    assert "| small | blur | 90, 40 | 0, 50 | 20 / 80 | 30.0 | 20.0 | 10.0 |" in colour_shift_table(result)


def test_a_shift_without_flags_has_no_accuracy_of_flagged_rows(result: dict[str, Any]) -> None:
    flags = result["networks"]["small"]["shift"]["blur"]["flags"]["ood_score"]
    flags[1] = flags[0]
    assert "| 0, 0 | - / 90 |" in colour_shift_table(result)


def test_detectors_of_a_peer_stand_beside_the_score(result: dict[str, Any]) -> None:
    one = {"a": {"auroc": 0.6, "flagged": 0.1}, "b": {"auroc": 0.8, "flagged": 0.3}}
    detectors = {"MSP": {"sets": one}, "LTS": {"sets": {"a": one["a"]}, "error": "not finite"}}
    peers = {
        "networks": {"small": {"detectors": detectors}},
        "review_rate": 0.02,
        "versions": {"pytorch-ood": "9"},
    }
    table = peers_table(result, peers)
    assert "| detector | small: far |" in table
    assert "| **`ood_score`** | 90.0 / 40 |" in table
    assert "| MSP | 70.0 / 20 |" in table
    assert "| LTS | - |" in table
    assert "failed: LTS (small)." in table


def test_the_self_test_names_calibrations_that_are_blind(result: dict[str, Any]) -> None:
    told = {"default": {"flagged": {"noise": 1.0}, "blind": []}, "a": {"flagged": {"noise": 0.1}, "blind": ["noise"]}}
    result["networks"]["small"]["self_test"] = told
    table = self_test_table(result)
    assert "| small | default | 100 | no |" in table
    assert "| small | a | 10 | yes |" in table
