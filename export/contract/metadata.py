"""What an exported model promises: `ModelContract`, to and from the metadata of an ONNX file.

In: the metadata of an ONNX model (or the facts that an export collected). Out: a frozen value
that the screener can rely on without ever loading TensorFlow.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from export.contract.inputs import Preprocessing, Resize
from export.errors import ContractRefused

CONTRACT_VERSION = 1
DOMAIN = "oodscreen"
"""ONNX domain of the model-local noise functions; a site is a node of this domain."""

ALPHA_PRIME = -1.6732632423543772848170429916717 * 1.0507009873554804934193349852946
"""Where alpha dropout sends a dropped unit: the lower limit of SELU (Klambauer et al. 2017)."""

ZEROING_KINDS = ("MCDropout", "MCBroadcastDropout")
GAUSSIAN_KINDS = ("MCGaussianDropout",)
ALPHA_KINDS = ("MCAlphaDropout", "MCBroadcastAlphaDropout")
"""Kinds of noise: a mask of zeros, normal factors, and a mask that sends elements to ALPHA_PRIME."""

_PREFIX = "oodscreen."
_TEXT_KEYS = ("input_name", "output_name", "output_kind", "colour", "source_digest")

OUTPUT_KINDS = ("softmax", "logits", "sigmoid", "regression")
COLOURS = {1: "grey", 3: "rgb"}


@dataclass(frozen=True)
class Site:
    """One kept dropout: a place where every pass draws noise.

    Attributes:
        name: the layer's path in the Keras model; a layer called twice has `#2` behind it.
        kind: the noise function, as in the ONNX file; see `export.graph.functions`.
        rate: the share of elements that a pass drops, in (0, 1); of Gaussian noise, Keras' `rate`.
        shape: what the node sees, without the batch axis, in the graph's order of axes.
        noise_shape: the mask of one row, without the batch axis; 1 where a mask is shared along an axis.
        feeds: names of the next nodes that do more than move elements.
    """

    name: str
    kind: str
    rate: float
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    feeds: tuple[str, ...] = ()

    def describe(self) -> str:
        """Rate, shape, sharing and what it feeds, for people."""
        shared = "" if self.noise_shape == self.shape else f", one draw for {list(self.noise_shape)}"
        noise = {"MCGaussianDropout": "Gaussian, ", "MCAlphaDropout": "alpha, ", "MCBroadcastAlphaDropout": "alpha, "}
        feeds = f" -> {', '.join(self.feeds)}" if self.feeds else ""
        return f"{self.name}: {noise.get(self.kind, '')}rate {self.rate:g} on {list(self.shape)}{shared}{feeds}"


@dataclass(frozen=True)
class Accuracy:
    """What was measured on labelled rows, beside Keras on the same pixels.

    Attributes:
        rows: how many rows had an image and a label.
        keras: share of them that the Keras model has right, without dropout.
        exported: the same of the exported file.
        monte_carlo: the same of the mean over `passes` stochastic passes of the exported file.
        passes: how many these were.
        baseline: share of the most frequent label: what a model would reach that always says the same.
        differing: rows that Keras and the file give to different classes.
        unreadable: rows without an image that could be decoded.
        unlabelled: rows whose label could not be read.
    """

    rows: int
    keras: float
    exported: float
    monte_carlo: float
    passes: int
    baseline: float
    differing: int
    unreadable: int
    unlabelled: int

    def describe(self) -> str:
        """Two lines for people."""
        skipped = f", {self.unreadable} unreadable and {self.unlabelled} without a usable label left out"
        return (
            f"{self.exported:.2%} of {self.rows} labelled rows are right (Keras: {self.keras:.2%}, "
            f"differing rows: {self.differing}; mean of {self.passes} passes: {self.monte_carlo:.2%};\n"
            f"                 always the most frequent label: {self.baseline:.2%})"
            + (skipped if self.unreadable or self.unlabelled else "")
        )


@dataclass(frozen=True)
class ModelContract:
    """What an exported model promises to whoever runs it.

    The ONNX file takes `uint8 [N, height, width, channels]` and gives `float32 [N, classes]`, anew
    for every run. `output_kind` says how to read the output; it was stated at export or derived
    from the last layer, never guessed from values.
    """

    input_name: str
    output_name: str
    height: int
    width: int
    channels: int
    classes: int
    output_kind: str
    sites: tuple[Site, ...]
    preprocessing: Preprocessing
    resize: Resize = Resize()
    class_names: tuple[str, ...] = ()
    source_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    verified: dict[str, float] = field(default_factory=dict)
    accuracy: Accuracy | None = None

    @property
    def colour(self) -> str:
        """`grey` for one channel, `rgb` for three."""
        return COLOURS[self.channels]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of one image."""
        return (self.height, self.width, self.channels)

    def describe(self) -> str:
        """The contract for people to read."""
        height, width, channels = self.image_shape
        lines = [
            f"  input          {self.input_name}: uint8 [N, {height}, {width}, {channels}] ({self.colour})",
            f"  resize         {self.resize.describe()}",
            f"  preprocessing  {self.preprocessing.describe()}, in the graph",
            f"  output         {self.output_name}: [N, {self.classes}] ({self.output_kind})",
        ]
        if self.class_names:
            lines.append(f"  classes        {', '.join(self.class_names)}")
        for index, site in enumerate(self.sites):
            title = "dropout sites" if index == 0 else ""
            lines.append(f"  {title:13}  {site.describe()}")
        measured = self.verified
        if measured:
            lines += [
                f"  verified       two runs differ on {measured['changed_outputs']:.0%} of the test images;",
                f"                 without dropout {measured['deterministic_difference']:.1e} from Keras;",
                f"                 over {measured['passes']:.0f} passes the mean differs from Keras' by at most "
                f"{measured['mean_difference']:.4f}, the variance ratio is {measured['variance_ratio']:.2f}",
            ]
        if self.accuracy is not None:
            lines.append(f"  accuracy       {self.accuracy.describe()}")
        if self.versions:
            lines.append("  made with      " + ", ".join(f"{name} {text}" for name, text in self.versions.items()))
        return "\n".join(lines)

    def to_metadata(self) -> dict[str, str]:
        """The contract as `oodscreen.*` keys, for an ONNX file's metadata."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _TEXT_KEYS}
        values["contract_version"] = str(CONTRACT_VERSION)
        values["image_shape"] = json.dumps(list(self.image_shape))
        values["classes"] = str(self.classes)
        values["class_names"] = json.dumps(list(self.class_names))
        values["sites"] = json.dumps([asdict(site) for site in self.sites])
        values["preprocessing"] = json.dumps(asdict(self.preprocessing))
        values["resize"] = str(self.resize)
        values["accuracy"] = json.dumps(None if self.accuracy is None else asdict(self.accuracy))
        values["versions"] = json.dumps(self.versions, sort_keys=True)
        values["verified"] = json.dumps(self.verified, sort_keys=True)
        return {_PREFIX + key: value for key, value in sorted(values.items())}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], *, origin: str) -> ModelContract:
        """Read the contract back.

        Args:
            metadata: the metadata of an ONNX file.
            origin: the file's name, for messages.

        Raises:
            ContractRefused: there is no contract, or one that this version cannot read.
        """
        values = {key[len(_PREFIX) :]: text for key, text in metadata.items() if key.startswith(_PREFIX)}
        if "contract_version" not in values:
            raise ContractRefused(
                f"{origin} is an ONNX model, but it carries no oodscreen contract in its metadata.",
                wanted="a file written by `oodscreen export`, in which dropout is known to stay stochastic",
                next_step="export the Keras model again: oodscreen export MODEL.keras OUT.onnx --scale 1/255",
            )
        if values["contract_version"] != str(CONTRACT_VERSION):
            raise ContractRefused(
                f"{origin} has contract version {values['contract_version']}.",
                wanted=f"contract version {CONTRACT_VERSION}, the one that this oodscreen understands",
                next_step="export the model again with this version of oodscreen",
            )
        try:
            return cls._parse(values)
        except (KeyError, ValueError, TypeError) as error:
            raise ContractRefused(
                f"{origin} has a damaged oodscreen contract ({type(error).__name__}: {error}).",
                wanted="the metadata that `oodscreen export` wrote, unchanged",
                next_step="export the model again; do not edit the file's metadata",
            ) from error

    @classmethod
    def _parse(cls, values: dict[str, str]) -> ModelContract:
        height, width, channels = (int(size) for size in json.loads(values["image_shape"]))
        preprocessing = json.loads(values["preprocessing"])
        accuracy = json.loads(values["accuracy"])
        if channels not in COLOURS or values["output_kind"] not in OUTPUT_KINDS:
            raise ValueError(f"channels {channels}, output_kind {values['output_kind']!r}")
        return cls(
            input_name=values["input_name"],
            output_name=values["output_name"],
            height=height,
            width=width,
            channels=channels,
            classes=int(values["classes"]),
            output_kind=values["output_kind"],
            resize=Resize.parse(values["resize"]),
            sites=tuple(
                Site(
                    name=site["name"],
                    kind=site["kind"],
                    rate=float(site["rate"]),
                    shape=tuple(site["shape"]),
                    noise_shape=tuple(site["noise_shape"]),
                    feeds=tuple(site.get("feeds", ())),
                )
                for site in json.loads(values["sites"])
            ),
            preprocessing=Preprocessing(
                scale=preprocessing["scale"],
                mean=tuple(preprocessing["mean"]),
                std=tuple(preprocessing["std"]),
                name=preprocessing["name"],
                reverse_channels=preprocessing["reverse_channels"],
                channels_first=preprocessing["channels_first"],
            ),
            class_names=tuple(json.loads(values["class_names"])),
            source_digest=values["source_digest"],
            versions=json.loads(values["versions"]),
            verified=json.loads(values["verified"]),
            accuracy=Accuracy(**accuracy) if accuracy else None,
        )
