"""The contract of an exported model, `ModelContract`, written to and read from the metadata of its ONNX file.

In: the metadata of an ONNX file, or the values that an export collected. Out: a `ModelContract`, or
the metadata. TensorFlow is not loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from export.contract.accuracy import Accuracy
from export.contract.inputs import Preprocessing, Resize
from export.contract.insertion import RateChoice
from export.errors import ContractRefused

CONTRACT_VERSION, _SCALED_VERSION = 1, 2
"""Versions of the metadata layout; a reader refuses any other version. Only a contract with scaled decoding has version
2, because versions of oodscreen that read only version 1 would decode other pixels."""

DOMAIN = "oodscreen"
"""ONNX domain of the model-local noise functions; each site is a node in this domain."""

ALPHA_PRIME = -1.6732632423543772848170429916717 * 1.0507009873554804934193349852946
"""Value that alpha dropout assigns to a dropped unit: the lower limit of SELU (Klambauer et al. 2017)."""

ZEROING_KINDS = ("MCDropout", "MCBroadcastDropout")
GAUSSIAN_KINDS = ("MCGaussianDropout",)
ALPHA_KINDS = ("MCAlphaDropout", "MCBroadcastAlphaDropout")
"""Names of the noise functions: `ZEROING_KINDS` set dropped elements to 0, `GAUSSIAN_KINDS` multiply by Gaussian noise,
`ALPHA_KINDS` set dropped elements to `ALPHA_PRIME`."""

INSERTED = "inserted"
"""Origin of a site that the export inserted, because the model has no dropout there."""

_PREFIX = "oodscreen."
_TEXT_KEYS = ("input_name", "output_name", "output_kind", "colour", "source_digest")

OutputKind = Literal["softmax", "logits", "sigmoid", "regression"]
OUTPUT_KINDS: tuple[str, ...] = get_args(OutputKind)
"""Kinds of model output, in this order: class probabilities, logits (of classes; a single logit is the argument of a
sigmoid), one probability for each label, real values."""

Task = Literal["classes", "binary", "labels", "values"]
"""Meaning of the outputs: probabilities of C exclusive classes, the probability of class 1 of two classes, a
probability for each of C labels, or real values."""

COLOURS = {1: "grey", 3: "rgb"}
"""Colour mode of an image by its number of channels."""


@dataclass(frozen=True)
class Site:
    """A stochastic site: one call of a kept noise layer, at which every pass draws a mask.

    Attributes:
        name: path of the layer in the Keras model (the second call of the same layer has the suffix `#2`), or name of
            the PyTorch module or of the node in an ONNX file. The name of an inserted site is `before:` and the path of
            the layer that follows.
        kind: name of the noise function in the ONNX file; see `export.graph.functions`.
        rate: probability that an element is dropped in a pass, in (0, 1); for Gaussian noise, Keras' `rate`.
        shape: shape of the node's input without the batch axis, in the graph's axis order.
        noise_shape: shape of one row's mask without the batch axis; 1 for an axis along which the mask is shared.
        feeds: names of the nodes that consume the output, after operations that only reshape or transpose.
        origin: why the site is active, if it was not active in the source model; "" otherwise.
    """

    name: str
    kind: str
    rate: float
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    feeds: tuple[str, ...] = ()
    origin: str = ""

    def describe(self) -> str:
        """The site in one line: rate, shape, shared axes and consumers."""
        shared = "" if self.noise_shape == self.shape else f", mask {list(self.noise_shape)}"
        noise = {"MCGaussianDropout": "Gaussian, ", "MCAlphaDropout": "alpha, ", "MCBroadcastAlphaDropout": "alpha, "}
        feeds = f" -> {', '.join(self.feeds)}" if self.feeds else ""
        meaning = (
            f"{self.origin}: the model was not trained with this dropout" if self.origin == INSERTED else self.origin
        )
        origin = f" ({meaning})" if meaning else ""
        kind = noise.get(self.kind, "")
        return f"{self.name}: {kind}rate {self.rate:g} on {list(self.shape)}{shared}{feeds}{origin}"


@dataclass(frozen=True)
class ModelContract:
    """The interface of an exported model.

    The ONNX file maps `uint8 [N, height, width, channels]` to `float32 [N, classes]`, with new noise in every session
    run. `output_kind` defines how to interpret the output. The user stated the output kind at export, or the export
    derived it from the last layer. The export verified that output values on test images are possible for this kind.
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
    rate_choice: RateChoice | None = None

    @property
    def colour(self) -> str:
        """`grey` for one channel, `rgb` for three."""
        return COLOURS[self.channels]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of one image."""
        return (self.height, self.width, self.channels)

    @property
    def task(self) -> Task:
        """Meaning of the outputs, from their kind and their number."""
        if self.output_kind == "regression":
            return "values"
        if self.output_kind == "sigmoid" and self.classes > 1:
            return "labels"
        return "classes" if self.classes > 1 else "binary"

    @property
    def class_count(self) -> int:
        """Number of classes that can have names: 2 for a single probability, 0 for a regression."""
        return {"values": 0, "binary": 2}.get(self.task, self.classes)

    @property
    def source_name(self) -> str:
        """The source model in messages: `Keras`, or `the source file` for another framework."""
        return "Keras" if "keras" in self.versions or not self.versions else "the source file"

    def describe(self) -> str:
        """The contract as text for `oodscreen inspect`."""
        height, width, channels = self.image_shape
        lines = [
            f"  input          {self.input_name}: uint8 [N, {height}, {width}, {channels}] ({self.colour})",
            f"  resize         {self.resize.describe()}",
            f"  preprocessing  {self.preprocessing.describe()}, in the graph",
            f"  output         {self.output_name}: [N, {self.classes}] ({self._describe_output()})",
        ]
        if self.class_names:
            lines.append(f"  classes        {', '.join(self.class_names)}")
        for index, site in enumerate(self.sites):
            title = "dropout sites" if index == 0 else ""
            lines.append(f"  {title:13}  {site.describe()}")
        for index, text in enumerate(self.rate_choice.describe() if self.rate_choice else ()):
            title = "inserted rate" if index == 0 else ""
            lines.append(f"  {title:13}  {text}")
        for index, text in enumerate(self._describe_verification()):
            title = "verified" if index == 0 else ""
            lines.append(f"  {title:13}  {text}")
        if self.accuracy is not None:
            lines.append(f"  accuracy       {self.accuracy.describe(self.source_name)}")
        if self.versions:
            lines.append("  made with      " + ", ".join(f"{name} {text}" for name, text in self.versions.items()))
        return "\n".join(lines)

    def _describe_verification(self) -> list[str]:
        """Lines of text for the measurements in `verified`; files of older versions contain other measurements."""
        measured = self.verified
        if "masked_difference" in measured:
            return [
                f"relative difference from {self.source_name}: {measured['deterministic_difference']:.1e} without "
                f"dropout, {measured['masked_difference']:.1e} with equal masks;",
                f"{measured['counts']:.0f} counts of kept and of equal elements agree with the rates "
                f"({measured['trials']:,.0f} trials, smallest p-value {measured['smallest_p_value']:.2g})",
            ]
        if "deterministic_difference" in measured:
            return [f"difference from Keras: {measured['deterministic_difference']:.1e} without dropout"]
        return []

    def _describe_output(self) -> str:
        is_logit = self.output_kind == "logits" and self.task == "binary"
        return "logits: a sigmoid of the single logit is the probability" if is_logit else self.output_kind

    def to_metadata(self) -> dict[str, str]:
        """The contract as ONNX metadata with keys `oodscreen.*`."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _TEXT_KEYS}
        values["contract_version"] = str(_SCALED_VERSION if self.resize.scaled else CONTRACT_VERSION)
        values["image_shape"] = json.dumps(list(self.image_shape))
        values["classes"] = str(self.classes)
        values["class_names"] = json.dumps(list(self.class_names))
        values["sites"] = json.dumps([_site_entry(site) for site in self.sites])
        values["preprocessing"] = json.dumps(asdict(self.preprocessing))
        values["resize"] = str(self.resize)
        values["accuracy"] = json.dumps(None if self.accuracy is None else asdict(self.accuracy))
        if self.rate_choice is not None:
            values["rate_choice"] = self.rate_choice.to_text()
        values["versions"] = json.dumps(self.versions, sort_keys=True)
        values["verified"] = json.dumps(self.verified, sort_keys=True)
        return {_PREFIX + key: value for key, value in sorted(values.items())}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], *, origin: str) -> ModelContract:
        """The contract in the metadata of an ONNX file.

        Args:
            metadata: metadata of the file.
            origin: path of the file, for messages.

        Raises:
            ContractRefused: there is no contract, it is damaged, or it has another version.
        """
        values = {key[len(_PREFIX) :]: text for key, text in metadata.items() if key.startswith(_PREFIX)}
        if "contract_version" not in values:
            raise ContractRefused(
                f"{origin} is an ONNX model, but has no oodscreen contract in its metadata.",
                wanted="a file written by `oodscreen export`, which verifies that dropout stays stochastic",
                next_step="export this ONNX model, or the model from which it was converted, for example: "
                f"oodscreen export {origin} OUT.onnx --scale 1/255",
            )
        if values["contract_version"] not in (str(CONTRACT_VERSION), str(_SCALED_VERSION)):
            raise ContractRefused(
                f"{origin} has contract version {values['contract_version']}.",
                wanted=f"version {CONTRACT_VERSION} or {_SCALED_VERSION}, which this version of oodscreen reads",
                next_step="export the model again with the installed version of oodscreen",
            )
        try:
            return cls._parse(values)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            problem = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise ContractRefused(
                f"{origin} has a damaged oodscreen contract ({problem}).",
                wanted="the unmodified metadata that `oodscreen export` wrote",
                next_step="export the model again, and do not edit the file's metadata",
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
                    origin=str(site.get("origin", "")),
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
                reshape=tuple(preprocessing.get("reshape", ())),
            ),
            class_names=tuple(json.loads(values["class_names"])),
            source_digest=values["source_digest"],
            versions=json.loads(values["versions"]),
            verified=json.loads(values["verified"]),
            accuracy=Accuracy(**accuracy) if accuracy else None,
            rate_choice=RateChoice.from_text(values["rate_choice"]) if "rate_choice" in values else None,
        )


def _site_entry(site: Site) -> dict[str, Any]:
    """A site in the metadata; without `origin` if the site was active in the source model."""
    entry = asdict(site)
    if not site.origin:
        del entry["origin"]
    return entry
