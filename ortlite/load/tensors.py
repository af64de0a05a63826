"""What a file says about values: tensors, inside the file and outside it, dense and sparse, and declared types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ortlite import dtypes
from ortlite.errors import Fail, InvalidArgument, InvalidGraph, OrtError
from ortlite.graph import MapType, OptionalType, SequenceType, SparseType, TensorType, Type
from ortlite.limits import Limits, beyond
from ortlite.load import files

__all__ = ["DENSE_BYTES", "DENSE_RATIO", "HERE", "Given", "Tensors", "dtype_of", "text", "value_type"]

# Sparse tensors are made dense. All of a file's together may take this many bytes, and beyond that this many for each
# byte that the file holds of them: enough for weights of which one in four thousand is not zero, far too little for a
# file of a hundred bytes that asks for terabytes.
DENSE_BYTES = 2**26
DENSE_RATIO = 1000

HERE = "\0"  # the location, which no file can have, of data that lie in the model's own: those that `wire` leaves there


def text(value: str | bytes, what: str) -> str:
    """A name of the file. Raises InvalidGraph for one that is not UTF-8, which protobuf hands on as bytes."""
    if isinstance(value, str):
        return value
    raise InvalidGraph(f"This is an invalid model. The name {value!r} of {what} is not UTF-8.")


def dtype_of(code: int, what: str) -> dtypes.DType:
    """The element type with ONNX's number `code`. Raises InvalidGraph for an unknown one."""
    try:
        return dtypes.by_code(code)
    except ValueError as error:
        raise InvalidGraph(f"This is an invalid model. {what}: {error}.") from None


def value_type(proto: onnx.TypeProto, name: str) -> Type | None:
    """The declared type of the value `name`, or None when the file leaves it open."""
    kind = proto.WhichOneof("value")
    if kind in {"tensor_type", "sparse_tensor_type"}:
        info = getattr(proto, kind)
        if not info.elem_type:
            return None
        shape = tuple(_dimension(d, name) for d in info.shape.dim) if info.HasField("shape") else None
        return (TensorType if kind == "tensor_type" else SparseType)(dtype_of(info.elem_type, f"value {name!r}"), shape)
    if kind in {"sequence_type", "optional_type"}:
        element = value_type(getattr(proto, kind).elem_type, name)
        return element and (SequenceType if kind == "sequence_type" else OptionalType)(element)
    if kind == "map_type":
        value = value_type(proto.map_type.value_type, name)
        return value and MapType(dtype_of(proto.map_type.key_type, f"value {name!r}"), value)
    return None


def _dimension(dim: onnx.TensorShapeProto.Dimension, name: str) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return text(dim.dim_param, f"a dimension of {name!r}") or None


@dataclass(frozen=True)
class Given:
    """What the caller has in the place of what a file says, by name: tensors, and the bytes of files.

    `external` are for initializers whose data lie outside the model alone.
    """

    initializers: Mapping[str, np.ndarray] = field(default_factory=dict)
    external: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Mapping[str, memoryview] = field(default_factory=dict)


@dataclass
class Tensors:
    """Reads the tensors of one file; those outside it lie in `folder` and are memory-mapped.

    `linked`: the folder of the file that the model's name is a link to; links in `folder` may lead there, too.
    `room`: bytes outside the file that its tensors may still refer to; None: any number. `copies`: of the data in the
    file itself, which others may write anew while the model is used.
    """

    folder: Path
    given: Given = field(default_factory=Given)
    files: dict[str, np.ndarray] = field(default_factory=dict)
    dense: int = DENSE_BYTES  # bytes that sparse tensors may still become
    limits: Limits = field(default_factory=Limits)
    room: int | None = None
    copies: bool = True
    linked: Path | None = None

    def initializer(self, proto: TensorProto) -> np.ndarray:
        """The values of a graph's tensor, or what the caller gave in its place.

        Raises InvalidArgument where that is of another type or shape (Fail where it is for data outside the model), and
        Fail where it is for data outside, and these are inside.
        """
        wrong: type[OrtError] = InvalidArgument
        given = self.given.initializers.get(proto.name)
        if given is None:
            given, wrong = self.given.external.get(proto.name), Fail
            if given is None:
                return self.read(proto)
            here = any(entry.key == "location" and entry.value == HERE for entry in proto.external_data)
            if here or proto.data_location != TensorProto.EXTERNAL:
                raise Fail(f"Trying to replace non-external initializer with external data: {proto.name!r}")
        declared, actual = dtype_of(proto.data_type, f"initializer {proto.name!r}"), dtypes.of_numpy(given.dtype)
        if actual is not declared or given.shape != tuple(proto.dims):
            raise wrong(
                f"The tensor given for initializer {proto.name!r} is {actual}{list(given.shape)}, and the model's is "
                f"{declared}{list(proto.dims)}"
            )
        view = given.view()
        view.flags.writeable = False
        return view

    def read(self, proto: TensorProto) -> np.ndarray:
        """A tensor's values; strings as an object array of str. Raises Fail."""
        try:
            dtype = dtypes.by_code(proto.data_type)
            shape = self._shape(proto.dims, dtype, proto.name)
            if proto.data_location == TensorProto.EXTERNAL:
                return self._external(proto, dtype, shape)
            if dtype.kind == "S":
                if len(proto.string_data) != prod(shape):
                    raise ValueError(f"it holds {len(proto.string_data)} strings, and these dims {prod(shape)}")
                values = np.empty(len(proto.string_data), object)
                values[:] = [s.decode("utf-8", "surrogateescape") for s in proto.string_data]
                return values.reshape(shape)
            if proto.HasField("raw_data"):
                raw = proto.raw_data  # a copy of the bytes, each time
                _check_length(len(raw), dtype, shape)
                if dtype.bits >= 8:  # a view of them: to_array would copy them once more
                    return np.frombuffer(raw, dtypes.to_numpy(dtype)).reshape(shape)
            return numpy_helper.to_array(proto).reshape(shape)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise Fail(f"Tensor {proto.name!r}, dims {list(proto.dims)}, cannot be read: {error}") from None

    def sparse(self, proto: onnx.SparseTensorProto) -> np.ndarray:
        """A sparse tensor, made dense. Raises Fail where that would take too much memory (`DENSE_BYTES`)."""
        values, indices, name = self.read(proto.values), self.read(proto.indices), proto.values.name
        try:
            shape = self._shape(proto.dims, dtypes.of_numpy(values.dtype), name)
            size = prod(shape) * values.dtype.itemsize
            if (allowed := self.limits.total_bytes) is not None and size > allowed:
                raise beyond("total_bytes", allowed, size, f"bytes of the sparse tensor {name!r} made dense")
            self.dense -= size - DENSE_RATIO * (values.nbytes + indices.nbytes)
            if self.dense < 0:
                raise ValueError(
                    f"dense it is {size} bytes for {values.size} values; {DENSE_BYTES} bytes and {DENSE_RATIO} times "
                    f"what a file holds are the limit"
                )
            flat = np.full(prod(shape), "" if values.dtype == object else 0, values.dtype)
            flat[_positions(values, indices, shape)] = values
        except ValueError as error:
            raise Fail(f"Sparse tensor {name!r}, dims {list(proto.dims)}, cannot be read: {error}") from None
        return flat.reshape(shape)

    def _external(self, tensor: TensorProto, dtype: dtypes.DType, shape: tuple[int, ...]) -> np.ndarray:
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise _external_error(tensor.name, f"{entry.key} is given twice.")
            entries[entry.key] = entry.value
        if dtype.kind == "S":
            raise _external_error(tensor.name, "strings cannot be kept outside the model.")
        location = entries.get("location", "")
        data = self._file(tensor.name, location)
        length = -(-prod(shape) * dtype.bits // 8)
        if self.room is not None and location != HERE:
            self.room -= length  # each time: an unaligned one is copied
            if self.room < 0:
                found = f"{-self.room} too many"
                allowed = self.limits.model_bytes or 0
                raise beyond("model_bytes", allowed, found, f"bytes of the model with those outside of it ({location})")
        offset = _natural(tensor.name, entries, "offset", 0)
        given = _natural(tensor.name, entries, "length", length)
        if location == HERE:
            _check_length(given, dtype, shape)
        if given != length or offset + length > data.size:
            raise _external_error(
                tensor.name,
                f"{location}: {length} bytes from offset {offset} are out of bounds or can not be read in full "
                f"(length says {given}, the file has {data.size} bytes).",
            )
        if dtype.bits < 8:
            packed = data[offset : offset + length].tobytes()
            return numpy_helper.to_array(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=packed))
        # unaligned data would be slow in every product that reads it
        copied = offset % (dtype.bits // 8) or (location == HERE and self.copies)
        raw = files.copied(data, offset, length) if copied else data[offset : offset + length]
        return raw.view(dtypes.to_numpy(dtype)).reshape(shape)

    def _file(self, tensor: str, location: str) -> np.ndarray:
        if location in self.given.files:
            return np.frombuffer(self.given.files[location], np.uint8)
        if location not in self.files:
            try:
                with files.below(self.folder, location, self.limits, self.linked) as descriptor:
                    data = files.contents(descriptor, self.limits, self.limits.model_bytes, location)
                self.files[location] = np.frombuffer(data, np.uint8)
            except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
                problem = error.strerror if isinstance(error, OSError) and error.strerror else error
                raise _external_error(tensor, f"{location or 'an empty path'}: {problem}.") from error
        return self.files[location]

    def _shape(self, dims: Iterable[int], dtype: dtypes.DType, name: str) -> tuple[int, ...]:
        shape = _shape(dims, dtype)
        if (allowed := self.limits.elements) is not None and prod(shape) > allowed:
            raise beyond("elements", allowed, prod(shape), f"elements of tensor {name!r}, dims {list(shape)}")
        return shape


def _shape(dims: Iterable[int], dtype: dtypes.DType) -> tuple[int, ...]:
    """A tensor's shape. Raises ValueError for negative dims and for more bytes than an address can name."""
    shape = tuple(dims)
    if any(d < 0 for d in shape):
        raise ValueError("a dimension is negative")
    if prod(shape) * dtype.bits // 8 >= 2**63:
        raise ValueError("that many elements fit into no memory")
    return shape


def _check_length(given: int, dtype: dtypes.DType, shape: tuple[int, ...]) -> None:
    needed = -(-prod(shape) * dtype.bits // 8)
    if given != needed:
        raise ValueError(f"raw_data has {given} bytes, but these dims in {dtype} take {needed}")


def _positions(values: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where in the flat dense tensor the values of a sparse one stand. Raises ValueError where the two do not fit."""
    count = values.size
    if indices.dtype.kind == "i":
        indices = indices.astype(np.int64, copy=False)  # onnxruntime takes narrower ones, too
    if values.ndim != 1 or indices.dtype != np.int64 or indices.shape not in {(count,), (count, len(shape))}:
        raise ValueError(
            f"values {list(values.shape)} want indices of int64, [{count}] or [{count}, {len(shape)}], "
            f"not {indices.dtype}{list(indices.shape)}"
        )
    limits = shape if indices.ndim == 2 else (prod(shape),)
    columns = indices.reshape(count, len(limits))
    if ((columns < 0) | (columns >= np.array(limits, np.int64))).any():
        raise ValueError("an index is negative or beyond the dims")
    # the specification wants them to ascend; onnxruntime takes any order, and of two values in one place the later
    return np.ravel_multi_index(tuple(columns.T), limits) if limits else np.zeros(count, np.int64)


def _natural(tensor: str, entries: dict[str, str], key: str, default: int) -> int:
    """An offset or a length: what `entries` say under `key`, in decimal digits."""
    if key not in entries:
        return default
    written = entries[key]
    if not (isinstance(written, str) and written.isascii() and written.isdigit() and len(written) < 20):
        raise _external_error(tensor, f"the {key} {written!r} is not a number of bytes.")
    return int(written)


def _external_error(tensor: str, problem: str) -> Fail:
    return Fail(f"External data path validation failed for initializer: {tensor}. Error: {problem}")
