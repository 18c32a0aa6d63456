from __future__ import annotations

import datetime
import decimal
import uuid

import pyarrow as pa
import pytest

from screen.input.parquet.value_text import as_texts

NUMBER = uuid.UUID("12345678-1234-5678-1234-567812345678")
TEXT = str(NUMBER)
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 6)
UUIDS = pa.array([NUMBER.bytes, None], pa.uuid())

TEXTS = {
    "integers": (pa.array([1, -2, None]), ["1", "-2", None]),
    "floats": (pa.array([0.1, 3.0, float("nan")]), ["0.1", "3", "nan"]),
    "single precision": (pa.array([0.1], pa.float32()), ["0.1"]),
    "bools": (pa.array([True, False]), ["true", "false"]),
    "nulls": (pa.nulls(2), [None, None]),
    "decimals": (pa.array([decimal.Decimal("1.50")]), ["1.50"]),
    "dates": (pa.array([datetime.date(9999, 12, 31)]), ["9999-12-31"]),
    "times": (pa.array([datetime.time(1, 2, 3)], pa.time32("s")), ["01:02:03"]),
    "timestamps": (pa.array([MOMENT], pa.timestamp("us")), ["2024-01-02 03:04:05.000006"]),
    "timestamps in UTC": (pa.array([MOMENT], pa.timestamp("ms", "UTC")), ["2024-01-02 03:04:05.000Z"]),
    "timestamps of an offset": (pa.array([MOMENT], pa.timestamp("s", "+01:00")), ["2024-01-02 04:04:05+0100"]),
    "timestamps of an unknown zone": (pa.array([MOMENT], pa.timestamp("s", "Nowhere/X")), ["2024-01-02 03:04:05Z"]),
    "durations": (pa.array([5], pa.duration("ms")), ["5"]),
    "text": (pa.array(["é", "\x00"]), ["é", "\x00"]),
    "text in views": (pa.array(["é"], pa.string_view()), ["é"]),
    "dictionaries": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "bytes of text": (pa.array([b"a-1"], pa.large_binary()), ["a-1"]),
    "bytes": (pa.array([b"\xff\x00", b"\x00\x00\x00\x05", None]), ["ff00", "00000005", None]),
    "digests": (pa.array([NUMBER.bytes], pa.binary(16)), [NUMBER.hex]),
    "UUIDs": (UUIDS, [TEXT, None]),
    "UUIDs in a dictionary": (pa.DictionaryArray.from_arrays([1, 0], UUIDS), [None, TEXT]),
    "structs": (
        pa.array([{"day": datetime.date(2024, 1, 2), "n": 1}, None, {"day": None, "n": 2}]),
        ['{"day":"2024-01-02","n":1}', None, '{"day":null,"n":2}'],
    ),
    "structs of UUIDs": (pa.StructArray.from_arrays([UUIDS], ["u"]), [f'{{"u":"{TEXT}"}}', '{"u":null}']),
    "structs with one name twice": (
        pa.StructArray.from_arrays([pa.array([1]), pa.array(["x"])], ["a", "a"]),
        ['[1,"x"]'],
    ),
    "lists": (
        pa.array([[0.1, None, float("inf")], None, []], pa.list_(pa.float32())),
        ['[0.1,null,"inf"]', None, "[]"],
    ),
    "lists of bytes": (pa.array([[b"\xff", b"a"]]), ['["ff","a"]']),
    "maps": (pa.array([[("é", 1)]], pa.map_(pa.string(), pa.int32())), ['[{"key":"é","value":1}]']),
    "lists of a fixed size": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), ["[1,2]", None]),
    "tensors": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int8(), [1, 2]), pa.array([[1, 2]], pa.list_(pa.int8(), 2))
        ),
        ["[1,2]"],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.hostile(
    "Row ids of any Arrow type: UUIDs, bytes, structs, lists, tensors",
    "the id is the documented text of the value: a canonical UUID, hexadecimal digits or JSON",
)
def test_values_of_every_type_have_a_text(name: str) -> None:
    column, texts = TEXTS[name]
    assert as_texts(column) == texts
    assert as_texts(pa.chunked_array([column, column])) == texts * 2
    assert as_texts(column[len(column) - 1 :]) == texts[-1:]  # the text does not depend on the batch


def test_text_that_is_not_utf_8_is_escaped() -> None:
    column = pa.array([b"caf\xe9"]).view(pa.string())
    assert as_texts(column) == ["caf\\xe9"]
