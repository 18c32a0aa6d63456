"""Build Keras 3 models from the configurations of sequential and functional models of Keras 2.

In: the configuration of a model as plain data. Out: a `BuiltModel` with initial weights. The configurations of all
versions of Keras 2, 2.0 to 2.15, are read: models within models, layers that are called several times, and operations
of TensorFlow between layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from export.errors import ModelRefused
from export.source.keras_2.layers import LOADING, MODELS, make_layer, plain
from export.source.keras_2.operations import call_in_layer, find_function

_CONSTANT = "_CONSTANT_VALUE"
_UNNAMED = "\0"


@dataclass(frozen=True)
class BuiltLayer:
    """One layer of a built model; in place of an inner model, there is one `BuiltLayer` for each of its layers.

    Attributes:
        path: names of the enclosing models except the outermost, and the name of the layer, as in the file. For a model
            within a layer such as TimeDistributed, the path contains the name of that layer, not of the model.
        classes: class names of the models and layers in `path`, as in the file.
        layer: the layer of Keras 3.
    """

    path: tuple[str, ...]
    classes: tuple[str, ...]
    layer: Any


@dataclass(frozen=True)
class BuiltModel:
    """A Keras 3 model, and its layers in the order of the configuration, at any depth."""

    model: Any
    layers: tuple[BuiltLayer, ...]


def build_model(config: Mapping[str, Any], objects: Mapping[str, Any], *, unsafe: bool = False) -> BuiltModel:
    """The Keras 3 model that a configuration of Keras 2 describes, with initial weights.

    Args:
        config: `class_name` and `config` of the model, as plain data.
        objects: classes and functions that are not part of Keras, by the name in the file.
        unsafe: whether to run code in the configuration (Lambda layers).

    Raises:
        ModelRefused: the model contains an unknown class, operation or setting, or its graph is incomplete.
    """
    described = plain(config)
    if not _is_container(described):
        raise ModelRefused(
            f"The model is of the class {config.get('class_name')}, whose code is not in the file.",
            wanted="a sequential or functional model",
            next_step="build the model with its class in Keras 3, call it on an image, and export the file that this "
            "Python code writes: model.load_weights(FILE); model.save('rebuilt.keras'), where FILE is this file",
        )
    builder = _Builder(objects, unsafe)
    return BuiltModel(builder.container(described, (), ()), tuple(builder.built))


def clean_name(name: str) -> str:
    """The name of a layer in Keras 3, which does not allow all characters of the names in Keras 2."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name.replace("\\", "."))


def is_unnamed(name: str) -> bool:
    """Whether a name in the path of a layer stands for a model without a stored name, as in Keras 2.0 to 2.2."""
    return name.startswith(_UNNAMED)


class _Builder:
    def __init__(self, objects: Mapping[str, Any], unsafe: bool) -> None:
        self.objects = objects
        self.unsafe = unsafe
        self.built: list[BuiltLayer] = []
        self.unnamed = 0

    def container(self, described: Mapping[str, Any], path: tuple[str, ...], classes: tuple[str, ...]) -> Any:
        """The model that a configuration describes; `path` and `classes` are those of the model, as in `BuiltLayer`."""
        config = described["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list up to Keras 2.2.2
        own = {} if isinstance(config, list) else config
        if described["class_name"] == "Sequential":
            return self._sequential(described, own, layers, path, classes)
        return self._functional(own, layers, path, classes)

    def _make(self, described: Mapping[str, Any], name: str, path: tuple[str, ...], classes: tuple[str, ...]) -> Any:
        """The layer or model that a configuration describes; layers are added to the list of the built layers."""
        self.unnamed += not name
        path, classes = (*path, name or f"{_UNNAMED}{self.unnamed}"), (*classes, str(described["class_name"]))
        if _is_container(described):
            return self.container(_renamed(described, name), path, classes)
        inner = _Builder(self.objects, self.unsafe)  # for a model within a layer, such as TimeDistributed
        layer = make_layer(
            _renamed(described, name),
            self.objects,
            unsafe=self.unsafe,
            make_model=lambda model: inner.container(model, path, classes),
        )
        self.built += inner.built or [BuiltLayer(path, classes, layer)]
        return layer

    def _sequential(
        self,
        described: Mapping[str, Any],
        own: Mapping[str, Any],
        layers: Sequence[Mapping[str, Any]],
        path: tuple[str, ...],
        classes: tuple[str, ...],
    ) -> Any:
        import keras

        inputs = [_input(one) for one in layers if one["class_name"] == "InputLayer"]
        made = [self._make(one, _name(one), path, classes) for one in layers if one["class_name"] != "InputLayer"]
        if made and not inputs:
            shape = tuple(made[0].inputs[0].shape) if getattr(made[0], "inputs", None) else None
            first = layers[0]["config"]
            if shape is None and isinstance(first, Mapping):
                shape = first.get("batch_input_shape")
            shape = shape or own.get("build_input_shape") or (described.get("build_config") or {}).get("input_shape")
            inputs = [keras.Input(batch_shape=(None, *shape[1:]))] if shape else []
        return keras.Sequential([*inputs, *made], name=_model_name(own))

    def _functional(
        self,
        config: Mapping[str, Any],
        layers: Sequence[Mapping[str, Any]],
        path: tuple[str, ...],
        classes: tuple[str, ...],
    ) -> Any:
        import keras

        graph = _Graph(config, layers)
        for one in layers:
            name = _name(one)
            if one["class_name"] == "InputLayer":
                graph.tensors[name, 0] = [_input(one)]
            elif (function := find_function(one)) is not None:
                graph.calls[name] = partial(call_in_layer, function)
            else:
                graph.calls[name] = _without_list(self._make(one, name, path, classes))
        graph.run()
        inputs, outputs = (_single(graph.resolve(config[key])) for key in ("input_layers", "output_layers"))
        return keras.Model(inputs, outputs, name=_model_name(config))


class _Graph:
    """The calls of the layers of a functional model.

    Attributes:
        tensors: flat lists of output tensors, by the name of a layer and the index of its call in the configuration.
        calls: functions that call a layer, by the name of the layer.
    """

    def __init__(self, config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> None:
        self.tensors: dict[tuple[str, int], list[Any]] = {}
        self.calls: dict[str, Callable[..., Any]] = {}
        self._nodes = {_name(one): one.get("inbound_nodes") or [] for one in layers}
        used = {(one[0], one[1]) for one in self._references([*self._nodes.values(), config["output_layers"]])}
        # A model that was built before its first call has an additional first call, which is not in the configuration.
        self._first = {name: int(bool(nodes) and (name, len(nodes)) in used) for name, nodes in self._nodes.items()}

    def run(self) -> None:
        """Call all layers; each call follows the calls that compute its inputs, and earlier calls of the same layer.

        Raises:
            ModelRefused: a layer is not connected to the inputs.
        """
        import keras

        waiting = [(name, index) for name, nodes in self._nodes.items() for index in range(len(nodes))]
        while waiting:
            rest = []
            for name, index in waiting:
                node, own = self._nodes[name][index], (name, self._first[name] + index)
                needed = {(one[0], one[1]) for one in self._references(node)}
                if index:
                    needed.add((name, own[1] - 1))
                if needed <= self.tensors.keys():
                    outputs = self.calls[name](self.resolve(node), **self._keywords(node))
                    self.tensors[own] = keras.tree.flatten(outputs)
                else:
                    rest.append((name, index))
            if len(rest) == len(waiting):
                raise ModelRefused(
                    "The configuration of the model has layers whose inputs are missing: "
                    f"{', '.join(name for name, _ in rest)}.",
                    wanted="a functional model in which each layer is connected to the inputs",
                    next_step="build the model with tf_keras (pip install tf_keras), and export the file that this "
                    f"Python code writes: {LOADING}",
                )
            waiting = rest

    def resolve(self, value: Any) -> Any:
        """A copy of a structure in which tensors replace the references to tensors."""
        if self._is_reference(value):
            name, index, output = value[:3]
            return output if name == _CONSTANT else self.tensors[name, index][output]
        if isinstance(value, Mapping):
            return {key: self.resolve(one) for key, one in value.items()}
        return [self.resolve(one) for one in value] if isinstance(value, list) else value

    def _keywords(self, node: Any) -> dict[str, Any]:
        """The arguments of a call except the first; each reference in the first argument contains all of them."""
        found = next((one[3] for one in self._references(node, constants=True) if len(one) == 4), None) or {}
        return {key: self.resolve(value) for key, value in found.items() if value is not None}

    def _is_reference(self, value: Any) -> bool:
        """Whether a value is `[layer, call, output]` or `[layer, call, output, arguments]`."""
        is_list = isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str)
        return is_list and isinstance(value[1], int) and (value[0] in self._nodes or value[0] == _CONSTANT)

    def _references(self, value: Any, *, constants: bool = False) -> Iterator[Any]:
        """All references to the outputs of layers in a structure; with `constants`, also references to constants."""
        if self._is_reference(value):
            if constants or value[0] != _CONSTANT:
                yield value
            inner: Any = value[3:]
        else:
            inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        for one in inner:
            yield from self._references(one, constants=constants)


def _without_list(layer: Any) -> Callable[..., Any]:
    """A function that calls a layer, and takes a single input out of the list in which Keras 2 stores it."""
    return lambda inputs, **keywords: layer(_single(inputs), **keywords)


def _single(values: Any) -> Any:
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def _is_container(described: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a sequential or functional model."""
    config = described.get("config")
    layers = config.get("layers") if isinstance(config, Mapping) else config
    return described.get("class_name") in MODELS and isinstance(layers, list)


def _name(described: Mapping[str, Any]) -> str:
    """Name of a layer; "" if the name is not stored."""
    config = described["config"]
    return str(described.get("name") or (config.get("name") if isinstance(config, Mapping) else None) or "")


def _renamed(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with a name that Keras 3 allows."""
    config = described["config"]
    return {
        **described,
        "config": {**config, "name": clean_name(name)} if isinstance(config, Mapping) and name else config,
    }


def _model_name(config: Mapping[str, Any]) -> str | None:
    return clean_name(config["name"]) if config.get("name") else None


def _input(described: Mapping[str, Any]) -> Any:
    """The symbolic input of an input layer, for any number of images."""
    import keras

    config = described["config"]
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    dtype = config.get("dtype")
    dtype = dtype["config"]["name"] if isinstance(dtype, Mapping) else dtype
    return keras.Input(batch_shape=(None, *shape[1:]), dtype=dtype, name=clean_name(_name(described)))
