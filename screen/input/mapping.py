"""Map the options to columns of the shards, and check the types of these columns.

In: the schemas of `ShardRef`s and a `RunConfig`. Out: a `ColumnMapping`, the same for all shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from export.contract.metadata import ModelContract
from export.errors import InputRefused
from screen.columns import COLUMNS, RESULT_KEY
from screen.config import RunConfig
from screen.input.image_bytes import is_text
from screen.input.int96 import timestamp_unit
from screen.input.parquet.column_types import common_type, in_microseconds, plain_type
from screen.input.shards import ShardRef

_DEFAULT_ID = "id"


@dataclass(frozen=True)
class ColumnMapping:
    """The input columns to read.

    Attributes:
        image: name of the image column.
        id: name of the id column; None: the column `id` of each shard that has this column.
        keep: names of the columns to copy into the results.
        kept_schema: fields of the copied columns.
    """

    image: str
    id: str | None
    keep: tuple[str, ...]
    kept_schema: pa.Schema

    def id_of(self, shard: ShardRef) -> str | None:
        """Name of the shard's id column; None if the shard has no id column."""
        if self.id is None and shard.schema.names.count(_DEFAULT_ID) == 1:
            return _DEFAULT_ID
        return self.id

    def names_of(self, shard: ShardRef) -> list[str]:
        """Names of all columns to read from the shard, without repetition, and without the keys of its Hive folders."""
        key = self.id_of(shard)
        keep = (name for name in self.keep if not shard.folder_values(name))
        return list(dict.fromkeys([self.image, *([key] if key else []), *keep]))


def map_columns(shards: Sequence[ShardRef], config: RunConfig, contract: ModelContract) -> ColumnMapping:
    """Check every shard's schema against the options, and map the columns.

    Raises:
        InputRefused: a column is missing, ambiguous or of an unsupported type, or a copied column has the
            name of a result column.
    """
    key = config.id_column
    keep = tuple(config.keep)
    for name in keep:
        if name in {column.name for column in COLUMNS}:
            raise InputRefused(
                f"The input column of --keep {name} has the name of a result column.",
                wanted="input columns whose names differ from those of the result columns",
                next_step="rename the column in the input, or remove it from --keep",
            )
    for shard in shards:
        for name in (config.image_column, *([key] if key else []), *keep):
            count = shard.schema.names.count(name) or (len(shard.folder_values(name)) if name in keep else 0)
            if count != 1:
                _refuse_result(shard)
                raise InputRefused(
                    f"{shard.name} has {f'{count} columns' if count else 'no column'} {name!r}. "
                    f"Its columns: {', '.join(shard.column_names) or 'none'}.",
                    wanted=f"one column {name!r} in every shard",
                    next_step=f"rename one of the columns {name!r}"
                    if count
                    else _suggest_column(shard.schema, name == config.image_column),
                )
        _check_image_type(shard, config, contract)
    kept_schema = pa.schema([common_field(shards, name) for name in keep])
    return ColumnMapping(config.image_column, key, keep, kept_schema)


def _refuse_result(shard: ShardRef) -> None:
    """Raise an error if a shard is the result of a run.

    Raises:
        InputRefused: the shard is a result.
    """
    if RESULT_KEY in (shard.schema.metadata or {}):
        raise InputRefused(
            f"{shard.name} is a result of `oodscreen run`: it contains scores, but no images.",
            wanted="Parquet shards with an image column",
            next_step="give the shards that the run scored; to read results, give the folder to `oodscreen report`, "
            "`queue` or `evaluate`",
        )


def common_field(shards: Sequence[ShardRef], name: str) -> pa.Field:
    """The field of a copied column in the results, with the common type of all shards and no dictionary encoding.

    The field is nullable, because damaged pages give nulls.

    Args:
        shards: the shards; each one has the column.
        name: name of the column.

    Raises:
        InputRefused: the types of two shards have no common type.
    """
    kind = plain_type(shards[0].column_type(name))
    widest, is_distant = shards[0], False
    for shard in shards:
        given = shard.column_type(name)
        common = common_type(kind, plain_type(given))
        if common is None:
            raise InputRefused(
                f"The column {name!r} has the type {widest.column_type(name)} in {widest.name}, but {given} in "
                f"{shard.name}; no type represents the values of both.",
                wanted="types that one common type represents without a change of values, such as int32 and int64",
                next_step=f"leave out the column {name!r}, or write all shards with the same type",
            )
        if common != kind:
            kind, widest = common, shard
        is_distant = is_distant or timestamp_unit(shard, [name]) == "us"
    return pa.field(name, in_microseconds(kind) if is_distant else kind)


def _check_image_type(shard: ShardRef, config: RunConfig, contract: ModelContract) -> None:
    name = config.image_column
    kind = shard.schema.field(name).type
    if is_text(plain_type(kind)):
        if config.image_root is None:
            raise InputRefused(
                f"The column {name!r} of {shard.name} has the type {kind}, and --image-root is not set.",
                wanted="encoded images, or paths of image files together with --image-root",
                next_step="if the texts are paths, add --image-root FOLDER with the folder to which they are relative"
                + _suggest_other(shard.schema),
            )
        return
    if not _is_image_type(kind):
        raise InputRefused(
            f"The column {name!r} of {shard.name} has the type {kind}.",
            wanted="encoded images (binary, or struct<bytes: binary, path: string>), a fixed-size tensor of uint8, or "
            "paths of image files (string) together with --image-root",
            next_step=_suggest_column(shard.schema, True),
        )
    shape = tensor_shape(kind)
    if shape is not None and not _tensor_fits(shape, contract):
        resized = contract.resize.method != "none"
        height, width, channels = contract.image_shape
        raise InputRefused(
            f"The column {name!r} of {shard.name} contains tensors of shape {list(shape)}.",
            wanted=f"tensors of shape [height, width, {channels}], which are then resized to {height} x {width}"
            if resized
            else f"tensors of shape {list(contract.image_shape)}, the model's input shape",
            next_step="write the tensors in that shape, or give encoded images"
            + ("" if resized else "; if the training images were resized, export the model with --resize"),
        )


def _tensor_fits(shape: tuple[int, ...], contract: ModelContract) -> bool:
    """Whether tensors of a shape are images of the model's size, or of any size if the contract has a resize method."""
    height, width, channels = contract.image_shape
    if shape == (height * width * channels,):
        return True
    as_image = (*shape, 1) if len(shape) == 2 else shape
    if contract.resize.method != "none":
        return len(as_image) == 3 and as_image[2] == channels and all(as_image)
    return as_image == contract.image_shape


def _suggest_column(schema: pa.Schema, is_image: bool) -> str:
    if not is_image:
        return "give the name of a column that every shard has"
    fitting = image_columns(schema)
    if fitting:
        return f"use --image-column {fitting[0]!r}, if this column contains the images"
    texts = [field.name for field in schema if is_text(plain_type(field.type))]
    return "give shards with a column of encoded images: binary, or struct<bytes, path>" + (
        f"; if {texts[0]!r} contains paths of image files, use --image-column {texts[0]!r} --image-root FOLDER"
        if texts
        else ""
    )


def image_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that can contain images."""
    return [field.name for field in schema if _is_image_type(field.type)]


def _suggest_other(schema: pa.Schema) -> str:
    fitting = image_columns(schema)
    return f"; if the column {fitting[0]!r} contains the images, use --image-column {fitting[0]!r}" if fitting else ""


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_binary(kind.field(index).type)
    return is_binary(kind) or tensor_shape(kind) is not None


def tensor_shape(kind: pa.DataType) -> tuple[int, ...] | None:
    """The shape of a fixed-size uint8 tensor type; None for any other type, and for permuted axes."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape))):
            return None
        return tuple(kind.shape) if pa.types.is_uint8(kind.value_type) else None
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape) if shape and pa.types.is_uint8(kind) else None


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type is binary of variable length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))
