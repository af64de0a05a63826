"""Large tensors stay where they are in a model's bytes: protobuf parses the rest.

protobuf copies each byte string that it parses, and Python's bindings once more when it is read: three times the
model's size before the first weight is in its place. So the bytes of large tensors are taken out before, and each
refers to them as to a file's, by the location `HERE`. What else stands there is copied as it is, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from ortlite.load.tensors import HERE

__all__ = ["without_large_tensors"]

LARGE = 2**16  # bytes from which on a tensor is taken out, and a message looked into
DEPTH = 100  # protobuf's own bound for messages within messages
VARINT, BYTES = 0, 2  # how a field is written; the others are
FIXED = {1: 8, 5: 4}  # of so many bytes
TENSOR = onnx.TensorProto.DESCRIPTOR
DATA_TYPE, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = (
    TENSOR.fields_by_name[name].number for name in ("data_type", "raw_data", "external_data", "data_location")
)


class _Unusual(Exception):
    """What protobuf shall judge: bytes that are no message, or one that no writer makes."""


def without_large_tensors(data: bytes | memoryview) -> bytes | memoryview:
    """The bytes of a ModelProto, its large tensors referring to their data in `data`; `data` where there are none."""
    if len(data) < LARGE:
        return data
    view = memoryview(data)
    try:
        found = _message(view, 0, len(view), onnx.ModelProto.DESCRIPTOR, DEPTH)
    except (_Unusual, IndexError):
        return data
    return data if found is None else b"".join(found)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each field of the message at `data[at:end]`: its tag, where it, its content and the next begin, its number."""
    while at < end:
        start, value = at, 0
        tag, begin = _varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(data, begin)
        elif wire == BYTES:
            size, begin = _varint(data, begin)
            at = begin + size
        elif wire in FIXED:
            at = begin + FIXED[wire]
        else:
            raise _Unusual
        if at > end:
            raise _Unusual
        yield tag, start, begin, at, value


def _message(data: memoryview, at: int, end: int, kind: Any, depth: int) -> list[bytes | memoryview] | None:
    """The pieces of the message at `data[at:end]` without large tensors in it; None where it has none."""
    if not depth:
        raise _Unusual
    pieces: list[bytes | memoryview] = []
    kept, seen = at, set()
    for tag, start, begin, stop, _ in _fields(data, at, end):
        large = tag & 7 == BYTES and stop - begin >= LARGE
        field = kind.fields_by_number.get(tag >> 3) if large else None
        if field is None or field.message_type is None:
            continue
        if field.has_presence and tag in seen:  # not repeated: protobuf merges the two
            raise _Unusual
        seen.add(tag)
        read = _tensor(data, begin, stop) if field.message_type is TENSOR else None
        read = read or _message(data, begin, stop, field.message_type, depth - 1)
        if read is not None:
            length = _encoded(sum(map(len, read)))
            pieces += [data[kept:start], _encoded(tag), length, *read]
            kept = stop
    return [*pieces, data[kept:end]] if pieces else None


def _tensor(data: memoryview, at: int, end: int) -> list[bytes | memoryview] | None:
    """The pieces of a TensorProto that refers to its raw data; None where it has little or other data."""
    raw: tuple[int, int, int] | None = None
    for tag, start, begin, stop, value in _fields(data, at, end):
        number, wire = tag >> 3, tag & 7
        if wire == VARINT and (number == DATA_LOCATION or (number == DATA_TYPE and value == onnx.TensorProto.STRING)):
            return None
        if wire == BYTES and (number == EXTERNAL_DATA or (number == RAW_DATA and raw is not None)):
            return None
        if wire == BYTES and number == RAW_DATA:
            raw = start, begin, stop
    if raw is None or raw[2] - raw[1] < LARGE:
        return None
    start, begin, stop = raw
    place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, said in ("location", HERE), ("offset", begin), ("length", stop - begin):
        place.external_data.add(key=key, value=str(said))
    return [data[at:start], data[stop:end], place.SerializeToString()]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise _Unusual


def _encoded(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
