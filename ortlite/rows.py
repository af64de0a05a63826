"""Rows as a model takes them: columns of a table as arrays of an input's dtype and row shape, outputs as one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ortlite import dtypes
from ortlite.dtypes import DType
from ortlite.errors import Fail, InvalidArgument

if TYPE_CHECKING:
    from ortlite.graph import Model

__all__ = ["Port", "check_row", "constant_of", "joined", "rows_of"]

Dims: TypeAlias = "tuple[int | str | None, ...]"


@dataclass(frozen=True)
class Port:
    """An input or output: its dtype, and its shape with the batch first, None where even its rank is not known."""

    name: str
    dtype: DType
    shape: Dims | None

    @property
    def row(self) -> Dims | None:
        """The shape of one row."""
        return None if self.shape is None else self.shape[1:]

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name!r} ({self.dtype}[{dims}])"


def rows_of(port: Port, values: Any, called: str = "the model") -> np.ndarray:
    """A column as an array of an input's dtype and row shape: rows that lie flat in it are given that shape.

    Raises InvalidArgument for rows of different or other shapes, and for a dtype that does not convert without loss of
    meaning: floats to integers, integers that do not fit.
    """
    array = values if isinstance(values, np.ndarray) else _stacked(port, values, called)
    if array.dtype == object and port.dtype.kind != "S":
        array = _stacked(port, list(array), called)
    if not array.ndim:
        raise InvalidArgument(f"{called}: input {port} is given a single value, not rows")
    return _shaped(called, port, _converted(called, port, array))


def _stacked(port: Port, values: Any, called: str) -> np.ndarray:
    values = list(values)
    if port.dtype.kind == "S":
        rows = [np.asarray(row, object) for row in values]
    else:
        rows = [np.asarray(row) for row in values]
        if any(row.dtype == object for row in rows):  # rows of rows, as tables hold them
            rows = [np.array(row.tolist()) if row.dtype != object else _deep(row) for row in rows]
    if len({row.shape for row in rows}) > 1 or any(r.dtype == object and port.dtype.kind != "S" for r in rows):
        shapes = ", ".join(sorted({str(list(row.shape)) for row in rows})[:4])
        raise InvalidArgument(f"{called}: input {port} is given rows of shapes {shapes}, or with nothing in them")
    if not rows:
        row = [d if isinstance(d, int) else 1 for d in port.row or ()]
        return np.empty((0, *row), object if port.dtype.kind == "S" else dtypes.to_numpy(port.dtype))
    return np.stack(rows)


def _deep(row: np.ndarray) -> np.ndarray:
    """Nested object arrays as one array; an object array again where they are ragged or hold None."""
    try:
        return np.array([np.stack(list(r)) if isinstance(r, np.ndarray) and r.dtype.kind == "O" else r for r in row])
    except (ValueError, TypeError):
        return row


def _converted(called: str, port: Port, array: np.ndarray) -> np.ndarray:
    if port.dtype.kind == "S":
        if array.dtype.kind not in "OUST":
            raise InvalidArgument(f"{called}: input {port} wants text, not {array.dtype}")
        return array.astype(object)
    wanted = dtypes.to_numpy(port.dtype)
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iu" and port.dtype.kind in "iu":
        converted = array.astype(wanted)
        if not np.array_equal(converted, array):
            raise InvalidArgument(f"{called}: input {port} is given {array.dtype} with numbers beyond {wanted}")
        return converted
    if array.dtype.kind not in "fciub" or not (port.dtype.narrow or np.can_cast(array.dtype, wanted, "same_kind")):
        raise InvalidArgument(f"{called}: input {port} is given {array.dtype}")
    return array.astype(wanted)


def _fits(row: Sequence[int | None], wanted: Dims | None) -> bool:
    return wanted is None or (
        len(row) == len(wanted) and all(n in {w, None} for n, w in zip(row, wanted, strict=True) if isinstance(w, int))
    )


def check_row(called: str, port: Port, row: Sequence[int | None]) -> None:
    """Raise InvalidArgument for a shape that no row of a port can have; None is a size that is not known."""
    if not _fits(row, port.row):
        raise InvalidArgument(f"{called}: rows of shape {list(row)} do not fit input {port}, whose first axis is rows")


def _shaped(called: str, port: Port, array: np.ndarray) -> np.ndarray:
    row, wanted = array.shape[1:], port.row
    if not _fits(row, wanted) and len(row) <= 1 and wanted is not None:
        known = [d for d in wanted if isinstance(d, int)]
        if len(known) == len(wanted) and prod(known) == prod(row):
            return array.reshape(len(array), *known)
    check_row(called, port, row)
    return array


def joined(called: str, port: Port, parts: Sequence[np.ndarray]) -> np.ndarray:
    """What batches gave, one after the other. Raises Fail where their rows have different shapes."""
    if len(parts) == 1:
        return parts[0]
    rows = {part.shape[1:] for part in parts}
    if len(rows) > 1:
        listed = " and ".join(str(list(row)) for row in sorted(rows)[:2])
        raise Fail(f"{called}: output {port} has rows of shape {listed} in two batches, which make no one array")
    return np.concatenate(parts)


def constant_of(called: str, name: str, model: Model, value: Any) -> Any:
    """A constant in the dtype of its input."""
    from ortlite.graph import TensorType

    type_ = model.graph.types.get(name)
    if type(type_) is not TensorType:
        return value
    array = np.asarray(value)
    if type_.dtype.kind == "S":
        array = array.astype(object)
    return _converted(called, Port(name, type_.dtype, type_.shape), array)
