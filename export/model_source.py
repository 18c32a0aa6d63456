"""The interface between the model to export and the export: a `Source`, independent of the model's framework.

In: the properties of a model that `export.source` (Keras) or `export.onnx_source` (ONNX files) found. Out: frozen
values and a protocol that the exporter and `export.proof` use. TensorFlow is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.contract.metadata import Site

if TYPE_CHECKING:
    import onnx

Images = NDArray[np.uint8]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class ImageInput:
    """The images of a model, and the steps from an image to the input of the model.

    Attributes:
        image_shape: `(height, width, channels)` of an image.
        channels_first: whether the first step transposes the image to `[C, H, W]`.
        reshape: shape to which the last step reshapes the image in row-major order; empty without this step.
        notice: notice for the user that an input without a channel axis is interpreted as a grey image; "" for other
            inputs.
    """

    image_shape: tuple[int, int, int]
    channels_first: bool = False
    reshape: tuple[int, ...] = ()
    notice: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Input shape of the model, without the batch axis."""
        height, width, channels = self.image_shape
        return self.reshape or ((channels, height, width) if self.channels_first else self.image_shape)


@dataclass(frozen=True)
class Converted:
    """A converted network.

    Attributes:
        proto: the graph in float32, with one custom node for each site.
        sites: sites in the order of the graph, with shapes in the graph's axis order.
        layouts: by name of the site, the permutation from the source's axis order to the graph's, with the batch axis.
        weights: values of the external initializers, by name.
        notices: notices for the user.
    """

    proto: onnx.ModelProto
    sites: tuple[Site, ...]
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[str, Values] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noise:
    """The noise of one site in one pass: the outputs of the site are `x * factor + shift` for its inputs x.

    Attributes:
        factor: `[B, *shape of the site's input]`.
        shift: `[B, *shape of the site's input]`; 0 except for alpha dropout.
    """

    factor: Values
    shift: Values


@dataclass(frozen=True)
class NormInputs:
    """Statistics of the inputs of one call of a BatchNormalization layer, for each of its K channels.

    Attributes:
        variance: variance in this pass, over rows and positions, `[K]`.
        learned_mean: moving mean of the layer, `[K]`.
        learned_variance: moving variance of the layer, `[K]`.
    """

    variance: Values
    learned_mean: Values
    learned_variance: Values

    @property
    def is_trained(self) -> bool:
        """Whether a learned mean differs from its initial value 0, or a learned variance from its initial value 1."""
        return bool(np.any(self.learned_mean != 0) or np.any(self.learned_variance != 1))

    @property
    def gain(self) -> float | None:
        """Standard deviation of the inputs divided by the learned standard deviation: the median over channels.

        Channels in which one of the two is 0 are left out; None if no channel remains.
        """
        varies = (self.variance > 0) & (self.learned_variance > 0)
        if not varies.any():
            return None
        return float(np.median(np.sqrt(self.variance[varies] / self.learned_variance[varies])))


@dataclass(frozen=True)
class SourcePass:
    """One pass of the source model.

    Attributes:
        outputs: outputs of the model, `[B, C]`.
        before_activation: input of the last softmax or sigmoid, `[B, C]`; None for another last operation.
        noise: noise by name of the site; empty for a pass without noise.
        norms: inputs of the BatchNormalization layers, in the order of their calls.
    """

    outputs: Values
    before_activation: Values | None
    noise: Mapping[str, Noise]
    norms: tuple[NormInputs, ...]


class Reference(Protocol):
    """Passes of the source model on raw pixels `uint8 [B, H, W, C]`, with which the exported file is compared."""

    def deterministic(self, images: Images) -> Values:
        """Outputs `[B, C]` without dropout."""

    def as_trained(self, images: Images) -> SourcePass | None:
        """A pass without dropout in the precision of the model; None if that precision is float32."""

    def without_noise(self, images: Images) -> SourcePass:
        """A pass without dropout."""

    def draw(self, images: Images, seed: int) -> SourcePass:
        """A pass with new noise for every row; equal seeds give equal noise."""

    def other_roundings(self, images: Images, seed: int | None) -> Sequence[SourcePass]:
        """Repetitions of the pass of `draw`, or of `without_noise` if `seed` is None, with other rounding errors."""

    def under(self, preprocessing: Preprocessing) -> Reference:
        """The same model under another preprocessing with the same order of the axes."""

    def biases(self) -> list[Values]:
        """The biases of all layers."""


@dataclass(frozen=True)
class Source:
    """A model to export, and its properties, which are known before it is converted.

    Attributes:
        origin: path of the file, or a name of the model, for messages.
        digest: SHA-256 of the file or folder; "" for a model in memory.
        image: the images of the model, and the steps from an image to its input.
        classes: number of outputs C.
        output_kind: output kind according to the last layer; "" if this layer does not determine the kind.
        scales_itself: whether the model scales raw pixels itself.
        own_scale: kind of layer or operation by which a model scales raw pixels itself, for messages.
        made_with: names of the packages whose versions are part of the contract.
        convert: function from a version of the operator set, or None for the default, to the converted network.
        reference: function from a preprocessing to the passes of the model under this preprocessing.
        notices: notices for the user, such as layers that the export disables.
        takes_integers: whether the input has an integer type, such as uint8.
        writer: version of the program that wrote the file, by the name of the program; empty if unknown.
    """

    origin: str
    digest: str
    image: ImageInput
    classes: int
    output_kind: str
    scales_itself: bool
    own_scale: str
    made_with: tuple[str, ...]
    convert: Callable[[int | None], Converted]
    reference: Callable[[Preprocessing], Reference]
    notices: tuple[str, ...] = ()
    takes_integers: bool = False
    writer: Mapping[str, str] = field(default_factory=dict)
