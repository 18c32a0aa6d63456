"""Measure the detectors of the library pytorch-ood on features and logits that this project computes.

    pip install 'oodscreen[peers]'
    python -m benchmarks.colour [--work DIR]
    python -m benchmarks.peers [--work DIR]

`make bench` does not run this script, because torch is heavy: on Linux, pip installs torch's CUDA build (about 5 GB),
although the detectors run on the CPU.

In: the files of `benchmarks.peer_files` in WORK/peers/, written by `benchmarks.colour`. Each detector has the
library's default hyperparameters, or those of its paper where the library has no default, and is fitted on the
reference rows alone. KL matching and temperature scaling, which are fitted on held-out rows in their papers, are also
fitted on the reference rows. Logits are given in double precision: in single precision, many confident rows have a
softmax of exactly 1, and therefore equal scores.
Out: benchmarks/results/peers.json: AUROC, FPR95 and the share flagged for each network, detector and set; `error` for
a detector that failed; and the library's detectors that were left out, with the reasons. The metrics and the rank of
the threshold are those of `benchmarks.colour`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer_files import KNOWN, REVIEW_RATE, NetworkRows, Rows, read_network
from export.errors import InputRefused, OptionRefused
from screen.decide.row_sets import threshold_rank
from screen.review.evaluate.metrics import separate

RESULT = Path(__file__).parent / "results" / "peers.json"
BATCH = 1000
"""Maximum rows that a detector scores in one call; DICE needs rows x classes x features x 4 bytes."""


@dataclass(frozen=True)
class Peer:
    """A detector of the library.

    Attributes:
        name: name in the results.
        kind: name of its class in `pytorch_ood.detector`.
        reads: input on which the detector is fitted, and which it scores.
        make: function that builds the detector from its class and the last layer.
    """

    name: str
    kind: str
    reads: str
    make: Callable[[Any, LastLayer], Any] = field(default=lambda kind, _: kind(None))


class LastLayer:
    """The last linear layer as torch modules: for features `[N, F]`, and for feature maps `[N, F, 1, 1]`."""

    def __init__(self, rows: NetworkRows) -> None:
        import torch

        classes, features = rows.weight.shape
        self.linear = torch.nn.Linear(features, classes).requires_grad_(False)
        self.linear.weight.copy_(torch.from_numpy(rows.weight))
        self.linear.bias.copy_(torch.from_numpy(rows.bias))
        self.on_maps = torch.nn.Sequential(torch.nn.Flatten(1), self.linear)
        # As in ViM's original code for 768 features or more; with fewer, 512 dimensions leave little or no residual.
        self.principal = 1000 if features >= 2048 else 512 if features >= 768 else features // 2


def _with_layer(kind: Any, layer: LastLayer) -> Any:
    return kind(None, layer.linear)


def _on_maps(kind: Any, layer: LastLayer) -> Any:
    return kind(None, layer.on_maps)


PEERS = (
    Peer("MSP", "MaxSoftmax", "logits"),
    Peer("MSP, temperature scaling", "TemperatureScaling", "logits"),
    Peer("energy", "EnergyBased", "logits"),
    Peer("max-logit", "MaxLogit", "logits"),
    Peer("entropy", "Entropy", "logits"),
    Peer("GEN", "GEN", "logits"),
    Peer("KL matching", "KLMatching", "logits"),
    Peer("OpenMax", "OpenMax", "logits"),
    Peer("KNN", "KNN", "features"),
    Peer("ViM", "ViM", "features", lambda kind, layer: kind(None, layer.principal, *layer.linear.parameters())),
    Peer("Mahalanobis", "Mahalanobis", "features"),
    Peer("relative Mahalanobis", "RMD", "features"),
    Peer("GMM", "GMM", "features"),
    Peer("SHE", "SHE", "features", _with_layer),
    # The paper's share of dropped weights for CIFAR-10; the library has no default.
    Peer("DICE", "DICE", "features", lambda kind, layer: kind(None, *layer.linear.parameters(), p=0.9)),
    Peer("fDBD", "fDBD", "features", _with_layer),
    Peer("NCI", "NCI", "features", _with_layer),
    Peer("NNGuide", "NNGuide", "features", _with_layer),
    Peer("pNML", "PNML", "features", _with_layer),
    Peer("LTS", "LTS", "features", _with_layer),
    Peer("ReAct", "ReAct", "feature_maps", _on_maps),
    Peer("VRA", "VRA", "feature_maps", _on_maps),
    Peer("SCALE", "SCALE", "feature_maps", _on_maps),
    Peer("ASH-S", "ASH", "feature_maps", _on_maps),
    Peer("ASH-P", "ASH", "feature_maps", lambda kind, layer: kind(None, layer.on_maps, "ash-p")),
    Peer("ASH-B", "ASH", "feature_maps", lambda kind, layer: kind(None, layer.on_maps, "ash-b")),
    # The paper's gradients: those of the last layer's weights.
    Peer("GradNorm", "GradNorm", "gradients", lambda kind, layer: kind(layer.linear, lambda name: name == "weight")),
    Peer("GradUncertainty", "GradUncertainty", "gradients", lambda kind, layer: kind(layer.linear)),
)

LEFT_OUT = {
    "Gram": "reads feature maps of several layers",
    "MCD": "needs stochastic passes of the whole network",
    "MCM": "needs text embeddings of the classes from a vision-language model",
    "MahalanobisODIN": "perturbs images along gradients of the whole network",
    "MultiMahalanobis": "reads feature maps of several layers",
    "NACUE": "reads activations of several layers, and their gradients",
    "ODIN": "perturbs images along gradients of the whole network",
    "RankFeat": "removes the first singular vector from a feature map, which features without positions do not have",
    "WeightedEBO": "needs weights of the classes that are learned with a loss of its own",
}
"""Detectors of the library that need more than the features, the logits and the last layer, with the reasons."""


def measure_network(rows: NetworkRows) -> dict[str, Any]:
    """Measure each detector on each set."""
    layer = LastLayer(rows)
    return {
        "features": rows.weight.shape[1],
        "classes": rows.weight.shape[0],
        "rows": {name: len(one.logits) for name, one in rows.sets.items()},
        "detectors": {peer.name: measure_detector(peer, layer, rows.sets) for peer in PEERS},
    }


def measure_detector(peer: Peer, layer: LastLayer, sets: Mapping[str, Rows]) -> dict[str, Any]:
    """Measure one detector on each set; an exception of the library becomes the text of `error`."""
    found: dict[str, Any] = {"class": peer.kind}
    try:
        fitted = fit(peer, layer, sets["reference"])
        found["hyperparameters"] = fitted.get_hyperparameters()
        scores = {name: score(peer, fitted, rows) for name, rows in sets.items() if name != "reference"}
    except Exception as error:  # noqa: BLE001  the detectors raise many types of exceptions
        return {**found, "error": f"{type(error).__name__}: {error}"}
    return {**found, **compare(scores)}


def fit(peer: Peer, layer: LastLayer, reference: Rows) -> Any:
    """The library's detector, fitted on the reference rows."""
    import torch
    from pytorch_ood import detector

    made = peer.make(getattr(detector, peer.kind), layer)
    if peer.reads != "gradients":  # those detectors are not fitted
        getattr(made, f"fit_{peer.reads}")(_input(peer, reference), torch.from_numpy(reference.labels))
    return made


def score(peer: Peer, fitted: Any, rows: Rows) -> NDArray[np.float64]:
    """Scores of the rows, `[N]`, high for out-of-distribution rows."""
    import torch

    predict = fitted.predict if peer.reads == "gradients" else getattr(fitted, f"predict_{peer.reads}")
    with torch.no_grad():
        scores = [predict(batch) for batch in _input(peer, rows).split(BATCH)]
    return np.asarray(torch.cat(scores).double().numpy(), np.float64)


def _input(peer: Peer, rows: Rows) -> Any:
    import torch

    if peer.reads == "logits":
        return torch.from_numpy(rows.logits).double()
    features = torch.from_numpy(rows.features)
    return features[:, :, None, None] if peer.reads == "feature_maps" else features


def compare(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """AUROC, FPR95 and the share flagged at the target rate of each set, where all scores are finite.

    Args:
        scores: scores of the sets by name, `[N]` each, high for out-of-distribution rows.

    Returns:
        `known_flagged` (share of the test rows) and `sets`; `error` names the sets with scores that are not finite.
    """
    broken = {name: int(np.sum(~np.isfinite(one))) for name, one in scores.items()}
    found: dict[str, Any] = {}
    if texts := [f"{count} of {len(scores[name])} of {name}" for name, count in broken.items() if count]:
        found["error"] = f"scores that are not finite: {', '.join(texts)}"
    if broken["held"] or broken["test"]:
        return found
    held = np.sort(scores["held"])
    threshold = held[-threshold_rank(len(held), REVIEW_RATE)]
    found["known_flagged"] = float(np.mean(scores["test"] > threshold))
    found["sets"] = {}
    for name, one in scores.items():
        if name not in KNOWN and not broken[name]:
            separation = separate(scores["test"], one, name, high_is_unusual=True)
            flagged = float(np.mean(one > threshold))
            found["sets"][name] = {"auroc": separation.auroc, "fpr95": separation.fpr95, "flagged": flagged}
    return found


def find_left_out() -> dict[str, str]:
    """The library's detectors that are not measured, with the reasons."""
    from pytorch_ood import api, detector

    measured = {peer.kind for peer in PEERS}
    names = [name for name in detector.__all__ if isinstance(getattr(detector, name), type)]
    kinds = [name for name in names if issubclass(getattr(detector, name), api.Detector) and name not in measured]
    return {name: LEFT_OUT.get(name, "unknown to this script") for name in kinds}


def main() -> None:
    """Measure all networks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/colour"))
    folders = sorted(path.parent for path in (parser.parse_args().work / "peers").glob("*/weights.npz"))
    if not folders:
        raise InputRefused(
            f"{parser.parse_args().work / 'peers'} contains no network.",
            wanted="folders with weights.npz",
            next_step="run `python -m benchmarks.colour` with the same --work",
        )
    try:
        left_out = find_left_out()
    except ImportError as error:
        raise OptionRefused(
            f"pytorch-ood cannot be imported: {error}.",
            wanted="the library whose detectors are measured",
            next_step="pip install 'oodscreen[peers]'",
        ) from error
    networks = {}
    for folder in folders:
        networks[folder.name] = measure_network(read_network(folder))
        for name, one in networks[folder.name]["detectors"].items():
            print(folder.name, name, one.get("error", one.get("sets")), flush=True)
    result = {
        "networks": networks,
        "left_out": left_out,
        "review_rate": REVIEW_RATE,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("pytorch-ood", "torch", "scikit-learn", "numpy")},
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    RESULT.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
