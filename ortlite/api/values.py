"""Values at the border of a session: what users feed becomes what programs run on, and back.

Inside, a sequence is a tuple, a map a dict of NumPy scalars or str, an optional None or its value, text an
object array of str. Outside, onnxruntime's conventions hold: lists for sequences, fresh writable arrays for tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.api.ortvalue import OrtValue
from ortlite.api.sparse import SparseTensor
from ortlite.errors import Fail, InvalidArgument
from ortlite.graph import MapType, OptionalType, SequenceType, SparseType, TensorType, Type
from ortlite.ordered import in_order
from ortlite.provider import CPU, ExecutionProvider, owner, unshared

__all__ = [
    "ModelMetadata", "NodeArg", "check_dtype", "check_shape", "library_of", "on_device", "plain", "to_inside",
    "to_outside",
]  # fmt: skip

LONG_DOUBLE = np.dtype(np.longdouble).num  # which ONNX has not
DTYPE = "Unexpected input data type"


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output of a model."""

    name: str
    type: str
    _shape: tuple[int | str | None, ...]

    @property
    def shape(self) -> list[int | str | None]:
        """The dimensions, each an int, a symbolic name, or None: a new list, which callers may change."""
        return [*self._shape]

    @classmethod
    def of(cls, name: str, type_: Type | None) -> NodeArg:
        """The description of value `name` of `type_`."""
        tensor = type_.element if isinstance(type_, OptionalType) else type_
        shape = tensor.shape if isinstance(tensor, TensorType) else None
        return cls(name, "" if type_ is None else type_.ort, tuple(shape or ()))

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


@dataclass(slots=True, eq=False)
class ModelMetadata:
    """What a model's file says about itself."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


def to_inside(name: str, value: Any, type_: Type | None) -> Any:
    """Check one fed value against its declared type and turn it into a run-time value.

    Arrays come in as read-only views: nothing a kernel does can change what the caller holds. Those of a subclass come
    in as plain ones (`plain`), those of other libraries and OrtValues by their memory. Raises InvalidArgument for a
    wrong dtype, rank or dimension, Fail for None where the type is not optional, RuntimeError for a Python object of
    the wrong kind.
    """
    if isinstance(value, OrtValue):
        value = value._data
    if isinstance(type_, OptionalType):
        return None if value is None else to_inside(name, value, type_.element)
    if value is None:
        wanted = "" if type_ is None else f", and {type_.ort} is wanted"
        raise Fail(f"Input {name!r} is None{wanted}: only an optional input, or one with a default, may be None.")
    if isinstance(type_, SequenceType):
        if isinstance(value, np.ndarray):
            raise InvalidArgument(f"Input {name!r} is a {type_.ort}: feed a list, not one array.")
        if not isinstance(value, list):
            raise RuntimeError(f"Input {name!r} is a {type_.ort}: feed a list, not {type(value).__name__}.")
        if not isinstance(type_.element, OptionalType) and any(item is None for item in value):
            raise RuntimeError(f"Input {name!r} is a {type_.ort}: a None among the {len(value)} elements is no tensor.")
        try:
            return tuple(to_inside(name, item, type_.element) for item in value)
        except InvalidArgument as error:
            if DTYPE not in error.text:
                raise
            raise RuntimeError(f"Input {name!r} is a {type_.ort}: {error.text}") from error
    if isinstance(type_, MapType):
        return _map(name, value, type_)
    declared = type_ if isinstance(type_, TensorType) else None
    array = _array(name, value, declared)
    if declared is not None:
        try:
            actual = dtypes.of_numpy(array.dtype)
        except ValueError:
            actual = None
        check_dtype(actual, str(array.dtype), declared)
        check_shape(name, array, declared)
    return array


def library_of(value: Any) -> ExecutionProvider | None:
    """The provider whose library a fed array is of; None for NumPy's arrays, and for what is no array."""
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__dlpack__"):
        return None
    found = owner(value)
    return None if found is None or found.name == CPU else found


def plain(name: str, value: Any) -> Any:
    """An array of a subclass of NumPy's (np.matrix, np.memmap, np.recarray ...) as a plain one; so for those in lists.

    Only then do operators mean what they mean for NumPy's arrays. Raises InvalidArgument for a masked array of which
    elements are masked: ONNX has no missing values, and which number stands for one is the caller's to say.
    """
    if isinstance(value, list | tuple):
        return [plain(name, item) if isinstance(item, list | tuple | np.ndarray) else item for item in value]
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = np.count_nonzero(np.ma.getmaskarray(value))
        raise InvalidArgument(
            f"Input {name!r} is a masked array, {count} of its {value.size} elements masked: feed x.filled(...)."
        )
    return np.asarray(value)


def _array(name: str, value: Any, declared: TensorType | None) -> np.ndarray:
    if isinstance(value, list) or (isinstance(value, np.ndarray) and type(value) is not np.ndarray):
        value = plain(name, value)
    elif isinstance(value, SparseTensor) and isinstance(declared, SparseType):
        value = value.to_dense()
    elif not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        library = library_of(value)
        value = np.from_dlpack(value) if library is None else library.to_numpy(value)
    if isinstance(value, list) and declared is not None:
        try:
            value = np.asarray(value, dtypes.to_numpy(declared.dtype))
        except (ValueError, TypeError, OverflowError) as error:
            raise RuntimeError(f"Could not create tensor from given input list for input {name!r}: {error}") from None
    if isinstance(value, dict) and value:
        raise InvalidArgument(f"{DTYPE}. Actual: (map) , expected: ({getattr(declared, 'ort', '')})")
    if not isinstance(value, np.ndarray):
        if np.isscalar(value) and not isinstance(value, str):
            raise RuntimeError(f"Unable to handle object of type {type(value)} for input {name!r}")
        raise RuntimeError(f"Input must be a list of dictionaries or a single numpy array for input '{name}'.")
    complex_ = value.dtype.kind == "c" and (declared is None or declared.dtype.kind != "c")
    if complex_ or value.dtype.kind in "mM" or value.dtype.num == LONG_DOUBLE:
        raise RuntimeError(f"Numpy_type {value.dtype.num} ({value.dtype}) can't be converted: input {name!r}")
    if value.dtype.names is not None:
        raise InvalidArgument(f"Input {name!r} is an array of records ({value.dtype}): feed one of its fields.")
    if value.dtype.kind in "OSUTV" and value.dtype.name not in dtypes.NAMES:
        return _strings(value)
    if not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    view = value.view()
    view.flags.writeable = False
    return view


def _strings(array: np.ndarray) -> np.ndarray:
    """Any array of text as an object array of str."""
    result = np.empty(array.shape, object)
    text = str if array.dtype.kind == "O" else _text  # objects are what `str` makes of them, bytes, too
    result.reshape(-1)[:] = [text(item) for item in array.reshape(-1).tolist()]
    result.flags.writeable = False
    return result


def _text(item: Any) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


def check_dtype(actual: dtypes.DType | None, shown: str, declared: TensorType) -> None:
    """Raise InvalidArgument where an array's dtype, called `shown` where ONNX has no such, is not the declared one."""
    if actual is not declared.dtype:
        shown = f"tensor({actual.ort})" if actual else shown
        raise InvalidArgument(f"{DTYPE}. Actual: ({shown}) , expected: ({declared.ort})")


def check_shape(name: str, array: Any, declared: TensorType) -> None:
    """Raise InvalidArgument for an array of another rank, or with another size along a fixed dimension."""
    if not declared.shape:  # [] is not checked: files say it for "unknown" as well
        return
    advice = "Please fix either the inputs/outputs or the model."
    if array.ndim != len(declared.shape):
        raise InvalidArgument(
            f"Invalid rank for input: {name} Got: {array.ndim} Expected: {len(declared.shape)} {advice}"
        )
    wrong = [i for i, d in enumerate(declared.shape) if isinstance(d, int) and d != array.shape[i]]
    if wrong:
        rows = "".join(f" index: {i} Got: {array.shape[i]} Expected: {declared.shape[i]}\n" for i in wrong)
        raise InvalidArgument(f"Got invalid dimensions for input: {name} for the following indices\n{rows} {advice}")


def _map(name: str, value: Any, type_: MapType) -> dict[Any, Any]:
    """A dict as onnxruntime takes it: its first key says of what type all are."""
    if isinstance(value, np.ndarray):
        raise InvalidArgument(f"input with name: {name!r} expected to be of type: {type_.ort} but received a tensor")
    if not isinstance(value, dict):
        raise RuntimeError(f"Input {name!r} is a {type_.ort}: feed a dict, not {type(value).__name__}.")
    if not value:  # its operators take the dtype from the values
        raise RuntimeError(f"Size of dictionary is empty, unable to run the prediction (input {name!r}).")
    text = type_.key.kind == "S"
    first = next(iter(value))
    if isinstance(first, int | np.integer if text else str):
        actual = "int64" if text else "string"
        raise InvalidArgument(f"{DTYPE}. Actual: ((map({actual},…))) , expected: (({type_.ort})) for input {name!r}")
    wanted: Any = str if text else int | np.integer
    c_type = "std::string" if text else f"C type {type_.key.ort}_t"
    for key in value:
        if not isinstance(key, wanted) or (not text and not -(2**63) <= key < 2**63):
            raise RuntimeError(f"Unexpected key type  {type(key)}, it cannot be linked to {c_type} (input {name!r})")
    assert isinstance(type_.value, TensorType)  # ONNX's maps hold no others
    held = str if type_.value.dtype.kind == "S" else dtypes.to_numpy(type_.value.dtype).type
    whole = type_.value.dtype.kind in "iub"
    for item in value.values():
        if isinstance(item, str) != (held is str) or item is None or np.ndim(item):  # float32(None) is NaN
            raise RuntimeError(
                f"Unexpected value type  {type(item)}, it cannot be linked to {type_.value.ort} for input {name!r}."
            )
        if whole and not isinstance(item, int | np.integer):
            raise InvalidArgument(f"{DTYPE}. Actual: (map of {type(item).__name__}) , expected: ({type_.ort})")
    return {(key if isinstance(key, str) else int(key)): held(item) for key, item in value.items()}


def to_outside(values: Sequence[Any]) -> list[Any]:
    """Turn run-time values (on NumPy) into what onnxruntime's `run` gives.

    An array that shares memory with an input, a constant or another output is copied. Constants and inputs are
    read-only inside, so that every view of them is as well; of another library's memory the library tells.
    """
    if len(values) == 1 and type(values[0]) is np.ndarray and values[0].base is None and values[0].flags.carray:
        return [values[0]]  # as most are
    owners: set[int] = set()
    return [_outside(value, owners) for value in values]


def _outside(value: Any, owners: set[int]) -> Any:
    if value is None:
        return None
    if type(value) is dict:  # of a ZipMap: there may be thousands
        kind = type(next(iter(value.values()), ""))
        if kind is float or kind is str:  # all are
            return value.copy()  # it may be a constant
        return {key: item if isinstance(item, str) else item.item() for key, item in value.items()}
    if isinstance(value, tuple):
        return [_outside(item, owners) for item in value]
    array = np.asarray(value)
    if array.base is None and array.flags.carray and id(array) not in owners:
        owners.add(id(array))
        return array
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    base: Any = root.base  # what another library has made
    owned = root.flags.owndata and id(root) not in owners
    if base is not None:
        owned = unshared(base) and 2 * array.nbytes >= base.nbytes
    if not array.flags.writeable or not array.flags.c_contiguous or not owned:
        array = root = in_order(array)
    owners.add(id(root))
    return array


def on_device(value: Any) -> OrtValue:
    """A result where it was computed, as an OrtValue; a copy, for it may be the model's or the caller's memory."""
    library = library_of(value)
    if library is None:
        return OrtValue.of(to_outside([value])[0])
    copy = library.copy(value)
    library.settle([copy])
    return OrtValue.from_dlpack(copy)
