"""Reading FlatBuffers: tables by the names of their fields, with an eye on what a damaged file may cost.

Every number, place and length is checked against the file; whatever does not fit is a ValueError, or one of `DAMAGED`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ortlite import errors

__all__ = ["DAMAGED", "Fields", "File", "Table", "fields", "flatbuffers"]

DAMAGED = (struct.error, ValueError, TypeError, IndexError, OverflowError)  # what reading a damaged file may raise

DEPTH = 64  # tables inside one another, and
TABLES = 1_000_000  # tables in all: what onnxruntime accepts, too; and no more than there is room for in the file
COPIED = 2**28  # bytes of names and lists, beyond four times the file: strings may be shared

Fields = Mapping[str, Mapping[str, int]]  # of each kind of table: which of its words says where a field is


def flatbuffers(what: str) -> Any:
    """The package. Raises NotImplemented, with the way to install it, where it is missing."""
    try:
        import flatbuffers as package
    except ImportError:
        raise errors.NotImplemented(
            f"{what} in FlatBuffers, for which the package flatbuffers is needed: pip install 'ortlite[ort]'"
        ) from None
    return package


def fields(kinds: Mapping[str, str]) -> Fields:
    """What `File` wants, from the names of the fields of each kind of table, in the schema's order."""
    return {kind: {name: n for n, name in enumerate(names.split(), 2)} for kind, names in kinds.items()}


class File:
    """The bytes of a file, what its tables hold, and how much may still be read of them."""

    def __init__(self, data: bytes | memoryview, kinds: Fields, what: str):
        self.data = memoryview(data)
        self.fields = kinds
        self.numbers = flatbuffers(what).packer  # how each kind of number is packed
        self.tables = min(TABLES, len(data) // 8)  # the table itself, and what refers to it: four bytes each
        self.copied = COPIED + 4 * len(data)

    def root(self, kind: str) -> Table:
        """The table that holds everything."""
        return Table(self, self.offset(0), kind, 0)

    def offset(self, position: int) -> int:
        """Where the offset at `position` leads."""
        return position + int(self.numbers.uoffset.unpack_from(self.data, position)[0])

    def vector(self, position: int, width: int) -> tuple[int, int]:
        """Where the elements of the vector at `position`, each of `width` bytes, begin, and how many there are."""
        count = int(self.numbers.uoffset.unpack_from(self.data, position)[0])
        start = position + 4
        if start + count * width > len(self.data):
            raise ValueError(f"{count} elements at byte {start} lead out of the file")
        return start, count

    def string(self, position: int) -> bytes:
        """The text at `position`."""
        start, count = self.vector(position, 1)
        self.spend(count)
        return bytes(self.data[start : start + count])

    def spend(self, count: int) -> None:
        """Count bytes that are copied."""
        self.copied -= count
        if self.copied < 0:
            raise ValueError("its names and lists take too much memory")


class Table:
    """A table of a file: its fields by name. What is absent is 0, "", empty or None."""

    def __init__(self, file: File, position: int, kind: str, depth: int):
        file.tables -= 1
        if depth > DEPTH or file.tables < 0:
            raise ValueError("too many tables")
        self.file, self.position, self.depth = file, position, depth
        self.fields = file.fields[kind]
        # before or behind it lies a table of 16-bit words, which tables of one kind share: its own size, that of this
        # table, and where in this one each field begins
        start = position - file.numbers.soffset.unpack_from(file.data, position)[0]
        if start < 0:
            raise ValueError(f"a table at byte {position} leads out of the file")
        count = min(file.numbers.voffset.unpack_from(file.data, start)[0] // 2, len(self.fields) + 2)
        self.places: tuple[int, ...] = struct.unpack_from(f"<{count}H", file.data, start)

    def _place(self, name: str) -> int:
        """Where the field lies; 0 where it is absent."""
        field = self.fields[name]
        place = self.places[field] if field < len(self.places) else 0
        return place and place + self.position

    def number(self, name: str, kind: str = "int32", default: Any = 0) -> Any:
        """A number of the kind that `flatbuffers.packer` calls so."""
        place = self._place(name)
        return getattr(self.file.numbers, kind).unpack_from(self.file.data, place)[0] if place else default

    def bytes_(self, name: str) -> bytes:
        """Text as it stands in the file."""
        place = self._place(name)
        return self.file.string(self.file.offset(place)) if place else b""

    def text(self, name: str) -> str:
        """Text. Raises ValueError for what is not UTF-8."""
        return self.bytes_(name).decode()

    def child(self, name: str, kind: str) -> Table | None:
        """The table of a field."""
        place = self._place(name)
        return Table(self.file, self.file.offset(place), kind, self.depth + 1) if place else None

    def children(self, name: str, kind: str) -> Iterator[Table]:
        """The tables of a field."""
        for position in self._positions(name):
            yield Table(self.file, position, kind, self.depth + 1)

    def strings(self, name: str) -> list[bytes]:
        """A list of texts, as they stand in the file."""
        return [self.file.string(position) for position in self._positions(name)]

    def texts(self, name: str) -> list[str]:
        """A list of texts. Raises ValueError for what is not UTF-8."""
        return [word.decode() for word in self.strings(name)]

    def numbers(self, name: str, dtype: str) -> list[Any]:
        """A list of numbers of NumPy's `dtype`."""
        start, count = self.elements(name, np.dtype(dtype).itemsize)
        self.file.spend(8 * count)
        values: list[Any] = np.frombuffer(self.file.data, dtype, count, start).tolist() if count else []
        return values

    def elements(self, name: str, width: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        place = self._place(name)
        return self.file.vector(self.file.offset(place), width) if place else (0, 0)

    def _positions(self, name: str) -> Iterator[int]:
        start, count = self.elements(name, 4)
        return (self.file.offset(start + 4 * index) for index in range(count))
