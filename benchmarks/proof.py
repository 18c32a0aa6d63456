"""Measure the verification of exports: false refusals, distribution of the p-values, and found faults.

In: networks that this script builds. Out: `benchmarks/results/proof.json`. Ten networks are exported once, five of them
with saturated outputs; then the verification runs with other seeds of the test images, of Keras and of onnxruntime,
on the correct graphs and on graphs with one planted fault.

    python -m benchmarks.proof [--runs 200] [--faults 20]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import helper

from export.contract.metadata import DOMAIN
from export.errors import VerificationFailed
from export.exporter import export_model
from export.proof import verify
from export.proof.draws import Count
from export.proof.verify import Reference, Subject, verify_model
from export.source.describe import import_keras
from tests.export import family

RESULTS = Path(__file__).parent / "results" / "proof.json"


@dataclass(frozen=True)
class Exported:
    """A correct export, as the arguments of `verify_model`."""

    subject: Subject
    reference: Reference


def export_subject(model: Any, folder: Path, **options: Any) -> Exported:
    """Export a Keras model to a folder, and return the arguments of its verification."""
    taken: list[Any] = []

    def keep(subject: Subject, reference: Reference, **others: Any) -> Any:
        taken.extend((subject, reference))
        return verify_model(subject, reference, **others)

    def write(graph: onnx.ModelProto, name: str) -> Path:
        (folder / name).write_bytes(graph.SerializeToString())
        return folder / name

    with mock.patch.object(verify, "verify_model", keep), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_model(model, folder / "model.onnx", **options)
    subject, reference = taken
    graph = onnx.ModelProto()
    graph.CopyFrom(subject.model)
    return Exported(replace(subject, model=graph, write=write), reference)


def saturated(gain: float, bias: float) -> Callable[[Any], Any]:
    """A builder of a small network whose softmax saturates: its last kernel is multiplied by `gain`."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(2, activation="softmax"),
            ]
        )
        kernel, _ = model.layers[-1].get_weights()
        model.layers[-1].set_weights([kernel * gain, np.array([bias, -bias], np.float32)])
        return model

    return build


def _louder(build: Callable[[Any], Any], gain: float) -> Callable[[Any], Any]:
    """A builder of the same network with a saturated last layer."""

    def built(keras: Any) -> Any:
        model = build(keras)
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([kernel * gain, bias])
        return model

    return built


SATURATED = {
    "dense, kernel x 20, bias 20": saturated(20, 20),
    "dense, kernel x 10, bias 200": saturated(10, 200),
    "sigmoid, kernel x 100": _louder(family.with_output("sigmoid", 1), 100),
    "residual, kernel x 50": _louder(family.residual, 50),
    "spatial dropout, kernel x 100": _louder(family.batch_normalized, 100),
}
OTHERS = {
    "two dense sites": family.sequential,
    "noise shape": family.noise_shape,
    "Gaussian dropout": family.gaussian,
    "alpha dropout": family.self_normalizing,
    "alpha dropout, shared": family.alpha_shared,
}
NETWORKS: Mapping[str, Callable[[Any], Any]] = {**SATURATED, **OTHERS}


def leave_out(model: onnx.ModelProto, site: str) -> None:
    """Fault: the nodes after the site read the input of the site."""
    node = _node(model, site)
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = node.input[0]


def raise_rate(model: onnx.ModelProto, site: str) -> None:
    """Fault: the rate is 0.05 higher, or 0.05 lower if the rate is above 0.5."""
    rate = next(attribute for attribute in _node(model, site).attribute if attribute.name == "rate")
    rate.f += 0.05 if rate.f <= 0.5 else -0.05


def share_rows(model: onnx.ModelProto, site: str) -> None:
    """Fault: all rows of a batch have the mask of the first row."""
    _share(model, site, axis=0)


def share_axis(model: onnx.ModelProto, site: str) -> None:
    """Fault: all positions along the first axis with separate masks have the same mask."""
    node = _node(model, site)
    own = next((list(one.ints) for one in node.attribute if one.name == "noise_axes"), None)
    _share(model, site, axis=1 if own is None else own.index(1, 1))


FAULTS: Mapping[str, Callable[[onnx.ModelProto, str], None]] = {
    "a site left out": leave_out,
    "a rate off by 0.05": raise_rate,
    "a mask shared over rows": share_rows,
    "a mask shared over an axis": share_axis,
}


def planted(exported: Exported, fault: Callable[[onnx.ModelProto, str], None], site: str) -> Subject:
    """A copy of the graph with a fault at one site."""
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.subject.model)
    fault(graph, site)
    return replace(exported.subject, model=graph)


def _node(model: onnx.ModelProto, site: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.domain == DOMAIN and node.name == site)


def _share(model: onnx.ModelProto, site: str, axis: int) -> None:
    """Draw the mask only for the first position of an axis, in a separate function of the site."""
    node = _node(model, site)
    function = onnx.FunctionProto()
    function.CopyFrom(next(one for one in model.functions if one.name == node.op_type))
    function.name = node.op_type = f"{function.name}Shared"
    random = next(index for index, one in enumerate(function.node) if one.op_type.startswith("Random"))
    like = function.node[random].input[0]
    function.node[random].input[0] = "first_position"
    before = [
        helper.make_node("Constant", [], ["share_start"], value_ints=[0]),
        helper.make_node("Constant", [], ["share_end"], value_ints=[1]),
        helper.make_node("Constant", [], ["share_axis"], value_ints=[axis]),
        helper.make_node("Slice", [like, "share_start", "share_end", "share_axis"], ["first_position"]),
    ]
    nodes = [*function.node[:random], *before, *function.node[random:]]
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del function.node[:]
    function.node.extend(copies)
    model.functions.append(function)


def run(subject: Subject, reference: Reference, seed: int) -> tuple[Count, ...] | None:
    """The counts of one verification with a seed below 10^6; None if the verification refuses the graph."""
    from export.runtime import onnxruntime

    # Sessions of one process draw the same numbers unless another seed is set in onnxruntime.
    onnxruntime.set_seed(int(np.random.default_rng(seed).integers(2**31 - 2)))
    try:
        return verify_model(subject, reference, seed=seed).counts
    except VerificationFailed:
        return None


def uniform_p_value(counts: list[Count], rng: np.random.Generator) -> float:
    """p-value of a Kolmogorov-Smirnov test that the randomised p-values of counts are uniform.

    The p-value of a count has steps; for a uniform distribution, a random share of the probability of the observed
    number is subtracted (Lehmann and Romano 2005, Testing Statistical Hypotheses, section 3.3).
    """
    from scipy.stats import binom, kstest

    numbers = np.array([(one.successes, one.trials, one.probability) for one in counts]).T
    below = binom.cdf(numbers[0] - 1, numbers[1], numbers[2])
    values = below + rng.random(len(counts)) * binom.pmf(*numbers)
    return float(kstest(values, "uniform").pvalue)


def measure_network(name: str, folder: Path, runs: int, faults: int) -> dict[str, Any]:
    """False refusals, p-values and found faults of one network."""
    build, first = NETWORKS[name], 1 + list(NETWORKS).index(name) * (runs + faults)
    keras = import_keras()
    keras.utils.set_random_seed(1)
    exported = export_subject(build(keras), folder, scale=1 / 255)
    found = [run(exported.subject, exported.reference, seed) for seed in range(first, first + runs)]
    by_question: dict[tuple[str, str], list[Count]] = {}
    for counts in found:
        for count in counts or ():
            by_question.setdefault((count.site, count.question), []).append(count)
    rng = np.random.default_rng(0)
    uniform = [uniform_p_value(counts, rng) for counts in by_question.values()]
    sites = [site.name for site in exported.subject.contract.sites]
    caught: Counter[str] = Counter()
    for seed in range(faults):
        for what, fault in FAULTS.items():
            subject = planted(exported, fault, sites[seed % len(sites)])
            caught[what] += run(subject, exported.reference, first + runs + seed) is None
    row = {
        "network": name,
        "saturated": name in SATURATED,
        "sites": len(sites),
        "kinds": sorted({site.kind for site in exported.subject.contract.sites}),
        "runs": runs,
        "refused": sum(counts is None for counts in found),
        "counts": len(by_question),
        "smallest_uniformity_p_value": min(uniform, default=math.nan),
        "planted": faults,
        "found": dict(caught),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Measure all networks, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="verifications of each correct graph")
    parser.add_argument("--faults", type=int, default=20, help="graphs of each network with each planted fault")
    given = parser.parse_args()
    rows = []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure_network(name, Path(folder), given.runs, given.faults))
    RESULTS.write_text(json.dumps({"networks": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
