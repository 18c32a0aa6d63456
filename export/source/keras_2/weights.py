"""Assign the weights in an HDF5 file of Keras 2 to a built model.

In: a `BuiltModel` and an open HDF5 file. Out: nothing; the weights of the model are assigned. There are two layouts.
`.h5` files have one group for each layer of the outermost model, with the names that the weights had in TensorFlow.
`model.weights.h5`, inside the `.keras` files of Keras 2.12 to 2.15, follows the attributes of the objects, and numbers
the layers of one class. Each saved weight must have exactly one counterpart with the same name and shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import count, takewhile
from textwrap import shorten
from typing import Any

from export.errors import ModelRefused
from export.source.keras_2.build import BuiltLayer, BuiltModel, is_unnamed

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_CELL = re.compile(r"(?:lstm|gru|simple_rnn)_cell(?:_\d+)?")
_NUMBER = re.compile(r"_\d+$")


def assign_weights(built: BuiltModel, file: Any, origin: str) -> None:
    """Assign all weights of a model from a file.

    Args:
        built: the model.
        file: open `h5py.File`: a model, or weights only.
        origin: name of the file, for messages.

    Raises:
        ModelRefused: the names or shapes of the saved weights differ from those of the model.
    """
    try:
        if has_layer_names(file):
            _assign_by_name(built, file.get("model_weights", file))
        else:
            _assign_by_class(built, file)
    except _Mismatch as error:
        raise ModelRefused(
            f"The weights in {origin} do not fit the layers of the model. Without counterpart in the model: "
            f"{_listed(error.saved)}. Without counterpart in the file: {_listed(error.wanted)}.",
            wanted="weights with the same layers, names and shapes as the model, so that each weight can be matched",
            next_step="load the model where it was trained, and save the whole model as .h5",
        ) from error


def has_layer_names(file: Any) -> bool:
    """Whether an open `h5py.File` has one group for each layer of the outermost model."""
    return bool(_attribute(file.get("model_weights", file), "layer_names"))


def layers_of(model: Any) -> BuiltModel:
    """A sequential or functional model of Keras 3 with its layers, at any depth."""
    return BuiltModel(model, tuple(_layers_within(model, (), ())))


def _layers_within(model: Any, path: tuple[str, ...], classes: tuple[str, ...]) -> Iterator[BuiltLayer]:
    for layer in model.layers:
        own = BuiltLayer((*path, layer.name), (*classes, type(layer).__name__), layer)
        if getattr(layer, "layers", None):
            yield from _layers_within(layer, own.path, own.classes)
        else:
            yield own


class _Mismatch(Exception):
    """Saved weights and weights of a model, as text, that have no counterpart."""

    def __init__(self, saved: Sequence[str], wanted: Sequence[str]) -> None:
        super().__init__()
        self.saved = saved
        self.wanted = wanted


@dataclass(frozen=True)
class _Wanted:
    """A weight of the model.

    Attributes:
        weight: variable of Keras 3.
        path: names of the models around its layer, without the outermost, and the name of the layer.
        inner: name of the weight within its layer, in parts that do not depend on the version of Keras.
    """

    weight: Any
    path: tuple[str, ...]
    inner: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'/'.join((*self.path, *self.inner))} {tuple(self.weight.shape)}"

    def explained(self, saved: Sequence[str], *, numbered: bool) -> int:
        """Number of the parts of a saved name that denote this weight; 0 for another weight.

        Args:
            saved: parts of the saved name.
            numbered: whether the name of the layer has a number that TensorFlow 1 appended to a name in use.
        """
        if _parts(saved[-1:]) != self.inner[-1:]:
            return 0
        layer, outer = self.path[-1].split("/"), [*saved[:-1]]
        runs = [outer[start : start + len(layer)] for start in range(len(outer) - len(layer) + 1)]
        if numbered:
            runs = [[*run[:-1], _NUMBER.sub("", run[-1])] for run in runs]
        if len(self.path) > 1 and layer not in runs:  # the group belongs to several layers
            return 0
        around = sum(1 for part in self.path[1:-1] if part in outer)
        return 1 + around + sum(1 for part in self.inner[:-1] if part in _parts(outer))


def _wanted(one: BuiltLayer) -> list[_Wanted]:
    depthwise = type(one.layer).__name__.startswith("DepthwiseConv")
    found = []
    for weight in one.layer.weights:
        parts = _parts(f"/{weight.path}".rpartition(f"/{one.layer.name}/")[2].split("/"))
        if depthwise and parts[-1] == "kernel":  # Keras 3 has renamed this weight
            parts = (*parts[:-1], "depthwise_kernel")
        found.append(_Wanted(weight, one.path, parts))
    return found


def _parts(name: Sequence[str]) -> tuple[str, ...]:
    """The parts of a name within a layer, without the numbers in names, and without the cells of recurrent layers."""
    return tuple(_NUMBER.sub("", part) for part in name if not _CELL.fullmatch(part))


def _assign_by_name(built: BuiltModel, group: Any) -> None:
    """Assign the weights of a file with one group for each layer of the outermost model."""
    wanted: dict[str, list[_Wanted]] = {}
    for one in built.layers:
        if one.layer.weights:
            wanted.setdefault(one.path[0], []).extend(_wanted(one))
    saved = {}
    for name in (*_attribute(group, "layer_names"), "top_level_model_weights"):
        own: Any = group.get(name)
        if datasets := {weight: own[weight] for weight in _attribute(own, "weight_names")}:
            saved[name] = datasets
    unnamed, others = [name for name in wanted if is_unnamed(name)], [name for name in saved if name not in wanted]
    if len(unnamed) == len(others):  # Keras 2.0 to 2.2 stores these names only here, in the order of the layers
        saved.update({new: saved.pop(old) for new, old in zip(unnamed, others, strict=True)})
    lost = [f"{name}/{weight}" for name in saved if name not in wanted for weight in saved[name]]
    missing = [str(one) for name in wanted if name not in saved for one in wanted[name]]
    if lost or missing:
        raise _Mismatch(lost, missing)
    for name, ones in wanted.items():
        for weight, dataset in _match(saved[name], ones):
            weight.assign(dataset[()])
    for one in built.layers:
        if hasattr(one.layer, "finalize_state"):  # Normalization derives values from its weights
            one.layer.finalize_state()


def _match(saved: Mapping[str, Any], wanted: Sequence[_Wanted]) -> list[tuple[Any, Any]]:
    """Weights and datasets of one layer of the outermost model.

    Raises:
        _Mismatch: a weight or a dataset has no counterpart, or several.
    """
    unmatched = _Mismatch([], [])
    for numbered in (False, True):
        pairs, lost = {}, []
        for name, dataset in saved.items():
            parts = [part for part in name.partition(":")[0].split("/") if part and not _CELL.fullmatch(part)]
            scores = [one.explained(parts, numbered=numbered) for one in wanted]
            best = [one for one, score in zip(wanted, scores, strict=True) if score == max(scores) > 0]
            if len(best) == 1 and tuple(best[0].weight.shape) == dataset.shape and id(best[0]) not in pairs:
                pairs[id(best[0])] = (best[0].weight, dataset)
            else:
                lost.append(f"{name} {dataset.shape}")
        missing = [str(one) for one in wanted if id(one) not in pairs]
        if not lost and not missing:
            return list(pairs.values())
        unmatched = unmatched if unmatched.saved else _Mismatch(lost, missing)
    raise unmatched


def _assign_by_class(built: BuiltModel, file: Any) -> None:
    """Assign the weights of a file that numbers the layers of one class in the order of the configuration."""
    import h5py

    datasets: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        name = name.replace("\\", "/")  # Keras 2 on Windows joins the names by backslashes
        if isinstance(item, h5py.Dataset) and name.startswith(_CONTAINERS):
            datasets[name] = item

    file.visititems(collect)
    for one, place in [*_places(built, datasets)]:
        own = {name[len(place) :]: datasets[name] for name in [*datasets] if place and name.startswith(place)}
        try:
            if len(own) != len(one.layer.weights):
                raise ValueError
            _load_variables(one.layer, own)
        except (AttributeError, KeyError, ValueError) as error:
            saved = [f"{place}{name} {item.shape}" for name, item in own.items()]
            raise _Mismatch(saved, [str(weight) for weight in _wanted(one)]) from error
        for name in own:
            del datasets[place + name]
    if datasets:
        raise _Mismatch([f"{name} {item.shape}" for name, item in datasets.items()], [])


def _load_variables(layer: Any, datasets: Mapping[str, Any]) -> None:
    """Assign datasets with names such as `vars/0` or `forward_layer/cell/vars/0` to a layer and its inner layers."""
    stores: dict[str, dict[str, Any]] = {}
    for name, dataset in datasets.items():
        attributes, _, index = f"/{name}".rpartition("/vars/")
        stores.setdefault(attributes, {})[index] = dataset[()]
    for attributes, store in stores.items():
        inner = reduce(getattr, attributes.split("/")[1:], layer)
        inner.load_own_variables(store)


def _places(built: BuiltModel, names: Mapping[str, Any]) -> Iterator[tuple[BuiltLayer, str]]:
    """Each layer with weights, and the prefix of the names of its datasets; "" if there is none."""
    ones = [one for one in built.layers if one.layer.weights]
    for one in ones:
        place = ""
        for depth, kind in enumerate(one.classes):
            siblings = [
                other.path[depth]
                for other in ones
                if other.path[:depth] == one.path[:depth] and other.classes[depth] == kind
            ]
            index = list(dict.fromkeys(siblings)).index(one.path[depth])
            pattern = re.compile(rf"({re.escape(place)}(?:{'|'.join(_CONTAINERS)})/{_snake_case(kind)}(?:_(\d+))?/).*")
            matches = {match[1]: int(match[2] or 0) for name in names if (match := pattern.fullmatch(name))}
            if len(matches) != len(set(siblings)):
                place = ""
                break
            place = sorted(matches, key=lambda prefix: matches[prefix])[index]
        yield one, place


def _snake_case(name: str) -> str:
    """The name of a class as Keras 2 writes it into the file."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name.rpartition(">")[2]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _attribute(group: Any, name: str) -> list[str]:
    """The texts of an attribute; Keras divides a long attribute into several, whose names end in 0, 1 and so on."""
    attributes = {} if group is None else group.attrs
    numbered = takewhile(lambda key: key in attributes, (f"{name}{number}" for number in count()))
    texts = [text for key in ([name] if name in attributes else numbered) for text in attributes[key]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _listed(texts: Sequence[str]) -> str:
    return shorten(", ".join(texts) or "none", 400)
