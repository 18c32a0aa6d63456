"""Assign the weights in `model.weights.h5`, which is inside the `.keras` files of Keras 2.12 to 2.15.

In: a `BuiltModel` and an open HDF5 file. Out: nothing; the weights of the model are assigned. The path of a group in
the file consists of names of attributes and, for each layer of a model, the class of the layer and its number among the
layers of this class, such as `layers/conv2d_1`. Keras 2.12 and 2.13 count layers with weights twice, and join names by
backslashes on Windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from export.source.keras_2.build import BuiltLayer, BuiltModel
from export.source.keras_2.hdf5 import Mismatch, within_file

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")


def assign_by_class(built: BuiltModel, file: Any) -> None:
    """Assign the weights of a file in which the layers of each class are numbered in the order of the configuration.

    Raises:
        Mismatch: a weight or a dataset has no counterpart of the same shape.
    """
    import h5py

    datasets: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        name = name.replace("\\", "/")
        if isinstance(item, h5py.Dataset) and name.startswith(_CONTAINERS):
            datasets[name] = within_file(item)

    file.visititems(collect)
    for one, place in [*_places(built, datasets)]:
        own = {name[len(place) :]: datasets[name] for name in [*datasets] if place and name.startswith(place)}
        try:
            if len(own) != len(one.layer.weights):
                raise ValueError
            _load_variables(one.layer, own)
        except (AttributeError, KeyError, ValueError) as error:
            saved = [f"{place}{name} {item.shape}" for name, item in own.items()]
            raise Mismatch(saved, [f"{weight.path} {tuple(weight.shape)}" for weight in one.layer.weights]) from error
        for name in own:
            del datasets[place + name]
    if datasets:
        raise Mismatch([f"{name} {item.shape}" for name, item in datasets.items()], [])


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
    """Each layer with weights, and the prefix of the names of its datasets; "" if the file has no matching groups."""
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
            folder = rf"{re.escape(place)}(?:layer/)?(?:{'|'.join(_CONTAINERS)})"  # layer/: in TimeDistributed
            pattern = re.compile(rf"({folder}/{_snake_case(kind)}(?:_(\d+))?/).*")
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
