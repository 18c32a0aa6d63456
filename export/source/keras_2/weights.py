"""Assign the weights in an HDF5 file of Keras 2 to a built model.

In: a `BuiltModel` and an open HDF5 file. Out: nothing; the weights of the model are assigned. `.h5` files have one
group for each layer of the outermost model, in which the weights have the names that they had in TensorFlow.
`export.source.keras_2.numbered` reads the layout of `.keras` files. Each saved weight must have exactly one counterpart
with the same name and shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from export.errors import ModelRefused
from export.source.keras_2.build import BuiltLayer, BuiltModel, is_unnamed
from export.source.keras_2.hdf5 import Mismatch, item_at, texts_of
from export.source.keras_2.numbered import assign_by_class

_CELL = re.compile(r"(?:lstm|gru|simple_rnn)_cell(?:_\d+)?")
_NUMBER = re.compile(r"_\d+$")
_RENAMED = {
    "DepthwiseConv1D": ("kernel", "depthwise_kernel"),
    "DepthwiseConv2D": ("kernel", "depthwise_kernel"),
    "LayerScale": ("variable", "gamma"),
}
"""Names of weights in Keras 3 and in Keras 2, by the class of their layer."""


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
            assign_by_class(built, file)
    except Mismatch as error:
        raise ModelRefused(
            f"The weights in {origin} do not fit the layers of the model. Weights in the file that were not matched: "
            f"{_listed(error.saved)}. Weights of the model that were not matched: {_listed(error.wanted)}.",
            wanted="weights with the same layers, names and shapes as the model, so that each weight can be matched",
            next_step="load the model and its weights with the version of Keras that wrote the weights, because this "
            "version assigns weights by their order (for Keras 2: pip install tf_keras); verify the outputs of the "
            "model, and save the model with model.save('NAME.h5')",
        ) from error


def has_layer_names(file: Any) -> bool:
    """Whether an open `h5py.File` has one group for each layer of the outermost model."""
    return bool(texts_of(file.get("model_weights", file), "layer_names"))


def layers_of(model: Any) -> BuiltModel:
    """A sequential or functional model of Keras 3 with its layers, at any depth."""
    return BuiltModel(model, tuple(_layers_within(model, (), ())))


def _layers_within(model: Any, path: tuple[str, ...], classes: tuple[str, ...]) -> Iterator[BuiltLayer]:
    for layer in model.layers:
        own = BuiltLayer((*path, layer.name), (*classes, type(layer).__name__), layer)
        inner = layer if hasattr(layer, "layers") else getattr(layer, "layer", None)
        if getattr(inner, "layers", None):
            yield from _layers_within(inner, own.path, own.classes)
        else:
            yield own


@dataclass(frozen=True)
class _Wanted:
    """A weight of the model.

    Attributes:
        weight: variable of Keras 3.
        path: names of the models around the weight's layer, except the outermost, and the name of the layer.
        inner: parts of the weight's name within its layer that do not depend on the version of Keras.
    """

    weight: Any
    path: tuple[str, ...]
    inner: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'/'.join((*self.path, *self.inner))} {tuple(self.weight.shape)}"

    def explained(self, saved: Sequence[str], *, numbered: bool) -> int:
        """Number of the parts of a saved name that match this weight; 0 if the name denotes another weight.

        Args:
            saved: parts of the saved name.
            numbered: whether the layer's name in the saved name ends in a number that TensorFlow 1 appended because
                the name was already used.
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
        return 1 + len(layer) + around + sum(1 for part in self.inner[:-1] if part in _parts(outer))


def _wanted(one: BuiltLayer) -> list[_Wanted]:
    new, old = _RENAMED.get(type(one.layer).__name__, ("", ""))
    found = []
    for weight in one.layer.weights:
        *outer, name = _parts(f"/{weight.path}".rpartition(f"/{one.layer.name}/")[2].split("/"))
        found.append(_Wanted(weight, one.path, (*outer, old if name == new else name)))
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
    for name in (*texts_of(group, "layer_names"), "top_level_model_weights"):
        own = item_at(group, name) if name in group else None
        if datasets := {weight: item_at(own, weight) for weight in texts_of(own, "weight_names")}:
            saved[name] = datasets
    unnamed, others = [name for name in wanted if is_unnamed(name)], [name for name in saved if name not in wanted]
    if len(unnamed) == len(others):  # Keras 2.0 to 2.2 stores these names only here, in the order of the layers
        saved.update({new: saved.pop(old) for new, old in zip(unnamed, others, strict=True)})
    lost = [f"{name}/{weight}" for name in saved if name not in wanted for weight in saved[name]]
    missing = [str(one) for name in wanted if name not in saved for one in wanted[name]]
    if lost or missing:
        raise Mismatch(lost, missing)
    for name, ones in wanted.items():
        for weight, dataset in _match(saved[name], ones):
            weight.assign(dataset[()])
    for one in built.layers:
        if hasattr(one.layer, "finalize_state"):  # Normalization derives values from its weights
            one.layer.finalize_state()


def _match(saved: Mapping[str, Any], wanted: Sequence[_Wanted]) -> list[tuple[Any, Any]]:
    """Pairs of a weight and its dataset, for one layer of the outermost model.

    Raises:
        Mismatch: a weight or a dataset has no counterpart, or several.
    """
    unmatched = Mismatch([], [])
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
        unmatched = unmatched if unmatched.saved else Mismatch(lost, missing)
    raise unmatched


def _listed(texts: Sequence[str]) -> str:
    return shorten(", ".join(texts) or "none", 400)
