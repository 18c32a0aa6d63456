"""Select the output of a Keras model, and derive its size and kind.

In: a model and, if the model has several outputs, the name of one output. Out: the model, and the index, shape, size
and kind of this output, or `ModelRefused`.
"""

from __future__ import annotations

from typing import Any

from export.errors import ModelRefused, OptionRefused

IN_MEMORY = "the model"
"""Name of a model that was not loaded from a file, for messages."""


def choose_output(
    model: Any, name: str | None, input_shape: tuple[int, ...], origin: str
) -> tuple[Any, int, tuple[int | None, ...]]:
    """The model, the index of the selected output in the flattened outputs, and the shape of this output.

    A functional model with several outputs is reduced to the selected output, with index 0.

    Raises:
        ModelRefused: the model has several outputs, and no name was given.
        OptionRefused: the name is not the name of exactly one output.
    """
    import keras

    functional = bool(getattr(model, "outputs", None))
    if functional and len(model.outputs) == 1:
        leaves = [((), model.outputs[0])]
    else:
        leaves = keras.tree.flatten_with_path(model.output if functional else _outputs_of(model, input_shape))
    names = [_output_name(path, tensor) for path, tensor in leaves]
    shapes = [tuple(tensor.shape) for _, tensor in leaves]
    if name is None and len(names) > 1:
        raise ModelRefused(
            f"{origin} has {len(names)} outputs: {shapes_text(shapes)}.",
            wanted=f"the name of the output to screen, one of: {', '.join(names)}",
            next_step=f"add --output-layer with one of these names, such as --output-layer {names[0]}",
        )
    if name is not None and names.count(name) != 1:
        raise OptionRefused(
            f"--output-layer {name} matches {names.count(name) or 'none'} of the outputs of {origin}.",
            wanted=f"one of: {', '.join(names)}",
            next_step="give one of these names",
        )
    position = 0 if name is None else names.index(name)
    if functional and len(names) > 1:
        tensor = leaves[position][1]
        return keras.Model(model.inputs, tensor), 0, shapes[position]
    return model, position, shapes[position]


def _outputs_of(model: Any, input_shape: tuple[int, ...]) -> Any:
    """The symbolic outputs of a subclassed model, from a trace."""
    import tensorflow as tf

    function = tf.function(lambda images: model(images, training=False))
    return function.get_concrete_function(tf.TensorSpec([None, *input_shape], tf.float32)).structured_outputs


def _output_name(path: tuple[Any, ...], tensor: Any) -> str:
    """Name of an output: the key in a dictionary of outputs, else the name of the output's layer, else the index."""
    if path and isinstance(path[-1], str):
        return str(path[-1])
    history = getattr(tensor, "_keras_history", None)
    if history is not None:
        return str(history.operation.name)
    return str(path[-1] if path else 0)


def count_classes(shape: tuple[int | None, ...], origin: str) -> int:
    """Number C of classes, labels or values for each image in an output `[N, C]`.

    Raises:
        ModelRefused: the output has another shape.
    """
    if len(shape) != 2 or shape[1] is None:
        raise ModelRefused(
            f"{origin} has an output of shape {shapes_text([shape])}.",
            wanted="an output of shape [N, C]: C classes, labels or values for each image",
            next_step=export_of_code(
                origin, f"keras.Model(model.inputs, keras.layers.{_layer_to_vector(shape)}(model.outputs[0]))"
            ),
        )
    return int(shape[1])


def _layer_to_vector(shape: tuple[int | None, ...]) -> str:
    """The layer that turns an output of this shape into one vector for each image."""
    if len(shape) in (3, 4, 5):
        return f"GlobalAveragePooling{len(shape) - 2}D()"
    return "Reshape((1,))" if len(shape) == 1 else "Flatten()"


def export_of_code(origin: str, expression: str) -> str:
    """The next step that exports a changed model, which `expression` makes from the loaded model `model`.

    Args:
        origin: path of the model file, or `the model` for a model in memory.
        expression: Python expression with the new model as its value.
    """
    if origin == IN_MEMORY:
        return f"export this model instead: {expression}"
    return (
        f"export other.keras, which this Python code writes: import keras; from export import load_keras; "
        f"model = load_keras({origin!r}); other = {expression}; other.save('other.keras')"
    )


def shapes_text(shapes: list[tuple[int | None, ...]]) -> str:
    """Shapes as text, with N for the batch axis."""
    return " and ".join(str(["N", *shape[1:]]).replace("'", "") for shape in shapes) or "nothing"


def derive_output_kind(model: Any) -> str:
    """Output kind according to the last layer's activation: `softmax` or `sigmoid`; "" for any other activation."""
    layer = _last_layer(model.outputs[0]) if getattr(model, "outputs", None) else None
    if type(layer).__name__ == "Softmax":
        return "softmax"
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return activation if activation in ("softmax", "sigmoid") else ""


def _last_layer(tensor: Any) -> Any:
    """The layer that computes a tensor; for a nested model, the last layer inside it."""
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    layer = history.operation
    outputs = getattr(layer, "outputs", None) if getattr(layer, "layers", None) else None
    return _last_layer(outputs[history.tensor_index]) if outputs else layer
