"""A Keras model as a `Source` of the export.

In: a `KerasSource`. Out: a `Source`, which converts the model with tf2onnx and computes its passes with TensorFlow.
"""

from __future__ import annotations

from export.graph.convert import convert_to_onnx
from export.graph.opset import OPSET
from export.model_source import Source
from export.source.describe import KerasSource
from export.source.network import KerasReference


def as_source(keras: KerasSource) -> Source:
    """The `Source` of a Keras model."""
    return Source(
        origin=keras.origin,
        digest=keras.digest,
        image=keras.image,
        classes=keras.classes,
        output_kind=keras.output_kind,
        scales_itself=keras.scales_itself,
        own_scale="Rescaling or Normalization layer",
        made_with=("keras", "tensorflow", "tf2onnx"),
        convert=lambda opset: convert_to_onnx(keras, OPSET if opset is None else opset),
        reference=lambda preprocessing: KerasReference(keras.network, preprocessing),
        notices=keras.notices,
        takes_integers=keras.takes_integers,
    )
