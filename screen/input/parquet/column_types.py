"""One type for a copied column whose type differs between shards, and arrays without values.

In: the types of the column in two shards. Out: the type in the results. Types are promoted by Arrow's rules.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The common type that represents the values of two types; None if no type does.

    Whether the common type represents a value exactly may depend on the value (an integer above 2**53 as a double, the
    year 2300 in nanoseconds); Arrow's safe cast checks each value.
    """
    if one == other:
        return one
    common = _promote(one, other)
    if common is None or "halffloat" in str(common):  # Arrow casts integers to half precision without a check
        common = _promote(_map_type(one, _without_encoding), _map_type(other, _without_encoding))
    return common if common is not None and _can_cast(one, common) and _can_cast(other, common) else None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column in the results, without dictionary encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def in_microseconds(kind: pa.DataType) -> pa.DataType:
    """The type with us instead of ns in each timestamp, also inside lists and structs."""
    return _map_type(kind, lambda one: pa.timestamp("us", one.tz) if _is_in_ns(one) else one)


def empty_array(kind: pa.DataType) -> pa.Array:
    """An empty array of any type; `pa.array` fails for a tensor type with a permutation."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    return pa.array([], kind)


def nulls(count: int, kind: pa.DataType) -> pa.Array:
    """An array of nulls of any type; the fields of a null struct are not null, because they may be required."""
    return pa.array([None] * count, kind) if pa.types.is_struct(kind) else pa.nulls(count, kind)


def nullable(schema: pa.Schema) -> pa.Schema:
    """The schema with nulls allowed in every column."""
    return pa.schema([field.with_nullable(True) for field in schema])


def _promote(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    try:
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None


def _can_cast(kind: pa.DataType, to: pa.DataType) -> bool:
    try:
        empty_array(kind).cast(to)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return False
    return True


def _map_type(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type after `change` is applied to each type in it that is not a list, struct or map, at any depth."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_map_type(field.type, change)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_map_type(kind.key_type, change), _map_type(kind.item_type, change))
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        field = kind.value_field.with_type(_map_type(kind.value_type, change))
        if isinstance(kind, pa.FixedSizeListType):
            return pa.list_(field, kind.list_size)
        return pa.list_(field) if isinstance(kind, pa.ListType) else pa.large_list(field)
    changed = change(kind)
    return changed if changed == kind else _map_type(changed, change)


def _without_encoding(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without dictionary, view or extension; half precision becomes single precision."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return pa.float32() if pa.types.is_float16(kind) else kind


def _is_in_ns(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind)) and kind.unit == "ns"
