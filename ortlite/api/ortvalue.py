"""Values that a program holds between runs: OrtValue, vectors of them, sparse tensors.

An OrtValue is a tensor on some device (a NumPy array, or another library's), a sequence (list), a map (dict), a sparse
tensor, or nothing (an empty optional). No call here copies a tensor unless it says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import Any

import numpy as np

from ortlite import dtypes, provider
from ortlite.api.device import PROVIDER_OF_DEVICE, OrtDevice, OrtMemoryInfo
from ortlite.api.dlpack import capsule
from ortlite.api.sparse import SparseTensor
from ortlite.dtypes import DType
from ortlite.errors import InvalidArgument
from ortlite.transfer import transfer

__all__ = ["OrtValue", "OrtValueVector", "copy_tensors", "element_dtype", "from_pointer"]

CPU = OrtDevice.make("cpu", 0)
NOT_NUMERIC = "Creation of OrtValues is currently only supported from non-string numpy arrays"
DLPACK_CPU = 1
DLPACK_NAMES = {1: "cpu", 2: "cuda", 3: "cpu", 10: "cuda", 13: "cuda", 14: "gpu"}  # DLDeviceType -> our name


class OrtValue:
    """A value for `run_with_ort_values` and `IOBinding`, or one that came out of them.

    Tensors share memory with what they are made from, `numpy()` with them, and so do `np.asarray`, `__dlpack__` and
    `from_dlpack`. Whoever writes to one writes to all.

    Example:
        >>> array = np.zeros((2, 3), np.float32)
        >>> value = OrtValue.ortvalue_from_numpy(array)
        >>> value.shape(), value.data_type(), value.data_ptr() == array.ctypes.data
        ([2, 3], 'tensor(float)', True)

    """

    __slots__ = ("__weakref__", "_data", "_device", "_dtype")
    _data: Any
    _dtype: DType | None
    _device: OrtDevice

    def __init__(self, ortvalue: Any, numpy_obj: Any = None, session: Any = None):
        """Wrap an OrtValue again. To make one, use the class methods."""
        if not isinstance(ortvalue, OrtValue):
            raise ValueError("`Provided ortvalue` needs to be of type `OrtValue`")
        self._data, self._dtype, self._device = ortvalue._data, ortvalue._dtype, ortvalue._device

    @classmethod
    def of(cls, data: Any, dtype: DType | None = None, device: OrtDevice = CPU) -> OrtValue:
        """The value of a result of a session: an array, a list, a dict, a SparseTensor or None."""
        made = cls.__new__(cls)
        if dtype is None and isinstance(data, np.ndarray | SparseTensor):
            dtype = dtypes.of_numpy((data if isinstance(data, np.ndarray) else data.values()).dtype)
        made._data, made._dtype, made._device = data, dtype, device
        return made

    @staticmethod
    def ortvalue_from_numpy(
        numpy_obj: Any, /, device_type: str | OrtDevice = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """A tensor that shares the array's memory; on another device than the CPU, a copy there.

        Raises RuntimeError for what is no array of numbers, and where the device is not there.
        """
        device = _device(device_type, device_id, vendor_id)
        if not isinstance(numpy_obj, np.ndarray):
            raise RuntimeError(NOT_NUMERIC)
        try:
            dtype = dtypes.of_numpy(numpy_obj.dtype)
        except ValueError as error:
            raise RuntimeError(f"{NOT_NUMERIC}: {error}") from None
        if dtype.kind in "Sc":
            raise RuntimeError(f"{NOT_NUMERIC}, not {numpy_obj.dtype}")
        array = numpy_obj
        if not array.flags.c_contiguous or not array.dtype.isnative:
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        return _placed(array, dtype, device)

    @staticmethod
    def ortvalue_from_numpy_with_onnx_type(data: np.ndarray, /, onnx_element_type: int) -> OrtValue:
        """A tensor of ONNX's element type `onnx_element_type` over the array's memory, e.g. bfloat16 (16) over uint16.

        Types of less than a byte are read from uint8, two or four elements a byte, as ONNX packs them (a copy).
        Raises TypeError for what is no array or no number, RuntimeError for another itemsize.
        """
        if not isinstance(data, np.ndarray):
            raise TypeError(f"an array is wanted, not {type(data).__name__}")
        if not isinstance(onnx_element_type, int | np.integer):
            raise TypeError(f"ONNX's number of an element type is wanted, not {type(onnx_element_type).__name__}")
        dtype = _by_code(int(onnx_element_type))
        storage = dtypes.to_numpy(dtype)
        if dtype.kind == "S" or data.dtype.itemsize != storage.itemsize:
            raise RuntimeError(
                f"The itemsize of {data.dtype} ({data.dtype.itemsize}) is not that of {dtype} ({storage.itemsize})"
            )
        if dtype.bits < 8 and data.dtype != storage:
            return OrtValue.of(_unpacked(data, dtype), dtype)
        array = np.ascontiguousarray(data).reshape(data.shape)
        return OrtValue.of(array.view(storage), dtype)

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int],
        element_type: Any,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: OrtMemoryInfo | None = None,
    ) -> OrtValue:
        """A tensor whose values are not set. `element_type`: a NumPy dtype, type or name, or ONNX's number.

        Raises RuntimeError for strings, negative sizes, and where the device is not there.
        """
        dtype = element_dtype(element_type)
        if dtype.kind in "Sc":
            raise RuntimeError(NOT_NUMERIC)
        sizes = tuple(index(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise RuntimeError(f"a tensor has no negative dimensions: {list(shape)}")
        device = _device(device_type, device_id, vendor_id)
        try:
            array = np.zeros(sizes, dtypes.to_numpy(dtype))
        except (ValueError, MemoryError) as error:
            raise RuntimeError(f"there is no room for a tensor {list(shape)} of {dtype}: {error}") from None
        return _placed(array, dtype, device)

    ortvalue_from_shape_and_onnx_type = ortvalue_from_shape_and_type

    @staticmethod
    def ort_value_from_sparse_tensor(sparse_tensor: SparseTensor) -> OrtValue:
        """A sparse tensor as a value."""
        return OrtValue.of(SparseTensor(sparse_tensor))

    @staticmethod
    def from_dlpack(data: Any, is_bool: bool = False, /) -> OrtValue:
        """A tensor that shares memory with another library's array, or with a DLPack capsule.

        `is_bool`: take an array of uint8 for one of bool. Raises TypeError for what is neither, RuntimeError for
        what is not contiguous.
        """
        if isinstance(data, OrtValue):
            return OrtValue(data)
        if not hasattr(data, "__dlpack__"):
            data = _Capsule(data)
        value = _of_library(data)
        if (
            is_bool
            and value._dtype is not None
            and value._dtype.name == "uint8"
            and isinstance(value._data, np.ndarray)
        ):
            return OrtValue.of(value._data.view(np.bool_))
        return value

    def _tensor(self) -> Any:
        if self._dtype is None or isinstance(self._data, list | dict | SparseTensor | None):
            raise RuntimeError(f"The OrtValue holds {self._kind()}, and a tensor is wanted")
        return self._data

    def _kind(self) -> str:
        kinds = {list: "a sequence", dict: "a map", SparseTensor: "a sparse tensor", type(None): "nothing"}
        return kinds.get(type(self._data), "a tensor")

    def data_ptr(self) -> int:
        """The address of the first element.

        Raises RuntimeError for what is no tensor, and where the array's library does not tell.
        """
        array = self._tensor()
        if isinstance(array, np.ndarray):
            return int(array.ctypes.data)
        owner = provider.owner(array)
        found = None if owner is None else owner.pointer(array)
        if found is None:
            raise RuntimeError(f"{type(array).__name__} does not tell where its memory is")
        return found

    def device_name(self) -> str:
        """The device's name: "cpu", "cuda" ..."""
        return self._device.name

    def shape(self) -> list[int]:
        """The tensor's shape; raises RuntimeError for what is no tensor."""
        data = self._data.dense_shape() if isinstance(self._data, SparseTensor) else self._tensor().shape
        return [int(d) for d in data]

    def data_type(self) -> str:
        """The type as onnxruntime prints it, e.g. "tensor(float)"."""
        if isinstance(self._data, SparseTensor):
            return self._data.data_type()
        if isinstance(self._data, list):
            inner = OrtValue.of(self._data[0]).data_type() if self._data else "tensor(float)"
            return f"seq({inner})"
        if isinstance(self._data, dict):
            key = "string" if any(isinstance(k, str) for k in self._data) else "int64"
            value = "string" if any(isinstance(v, str) for v in self._data.values()) else "float"
            return f"map({key},tensor({value}))"
        if self._dtype is None:
            return ""
        return f"tensor({self._dtype.ort})"

    def element_type(self) -> int:
        """ONNX's number of the element type of a tensor or of a sequence's tensors.

        Raises RuntimeError for what has none.
        """
        if isinstance(self._data, list) and self._data and isinstance(self._data[0], np.ndarray):
            return dtypes.of_numpy(self._data[0].dtype).code
        if self._dtype is None:
            raise RuntimeError(f"{self._kind()} has no element type")
        return self._dtype.code

    def tensor_size_in_bytes(self) -> int:
        """The bytes that ONNX says the tensor's elements take."""
        size, dtype = 1, self._dtype
        for d in self._tensor().shape:
            size *= int(d)
        assert dtype is not None
        return -(-size * dtype.bits // 8)

    def has_value(self) -> bool:
        """False for an optional without a value."""
        return self._data is not None

    def is_tensor(self) -> bool:
        """Whether it is a dense tensor."""
        return self._dtype is not None and not isinstance(self._data, SparseTensor)

    def is_sparse_tensor(self) -> bool:
        """Whether it is a sparse tensor."""
        return isinstance(self._data, SparseTensor)

    def is_tensor_sequence(self) -> bool:
        """Whether it is a sequence of tensors."""
        return isinstance(self._data, list) and not any(isinstance(item, dict) for item in self._data)

    def as_sparse_tensor(self) -> SparseTensor:
        """The sparse tensor; raises RuntimeError for what is none."""
        if not isinstance(self._data, SparseTensor):
            raise RuntimeError(f"The OrtValue holds {self._kind()}, and a sparse tensor is wanted")
        return self._data

    def numpy(self) -> Any:
        """The tensor as a NumPy array that shares its memory (from another device: a copy); a sequence as a list.

        Maps are dicts, an empty optional is None. Raises RuntimeError for a sparse tensor.
        """
        if isinstance(self._data, list | dict | None):
            return self._data
        if isinstance(self._data, SparseTensor):
            raise RuntimeError("Only OrtValues that are Tensors/SequenceTensors are supported.")
        array = self._tensor()
        if isinstance(array, np.ndarray):
            return array.view()
        owner = provider.owner(array)
        return np.from_dlpack(array) if owner is None else owner.to_numpy(array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        array = self._tensor()
        if not isinstance(array, np.ndarray):
            return array.__dlpack__(stream=stream, **options)
        if self._dtype is not None and self._dtype.narrow:
            return capsule(array)
        return array.__dlpack__(stream=stream, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        array = self._tensor()
        return (DLPACK_CPU, 0) if isinstance(array, np.ndarray) else tuple(array.__dlpack_device__())

    to_dlpack = __dlpack__

    def update_inplace(self, data: Any) -> None:
        """Overwrite the tensor's memory with that of an array, or of an OrtValue, of as many bytes.

        Raises TypeError for what is neither, RuntimeError for another size, and where the memory is read-only.
        """
        array = self._tensor()
        if not isinstance(array, np.ndarray) and isinstance(data, OrtValue) and self._like(data):
            _write(array, data._data)  # from device to device, without the host in between
            return
        source = data.numpy() if isinstance(data, OrtValue) else data
        if not isinstance(source, np.ndarray):
            raise TypeError(f"update_inplace takes an array or an OrtValue, not {type(data).__name__}")
        if source.nbytes != self._numpy_bytes():
            raise RuntimeError(
                f"The input size of {source.nbytes} bytes does not match the size of {self._numpy_bytes()} bytes "
                "that the OrtValue has."
            )
        if not isinstance(array, np.ndarray):
            fresh = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
            _write(array, fresh.view(dtypes.to_numpy(_known(self._dtype))).reshape(array.shape))
            return
        if not array.flags.writeable:
            raise RuntimeError("The memory of this OrtValue is read-only.")
        array.reshape(-1).view(np.uint8)[...] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)

    def _like(self, other: OrtValue) -> bool:
        return other.is_tensor() and other._dtype is self._dtype and other.shape() == self.shape()

    def _numpy_bytes(self) -> int:
        array = self._tensor()
        if isinstance(array, np.ndarray):
            return array.nbytes
        return self.tensor_size_in_bytes()

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    def _get_c_value(self) -> OrtValue:
        return self

    def __reduce__(self) -> Any:
        if isinstance(self._data, SparseTensor):
            return _again, (self._data, None)
        code = None if self._dtype is None else self._dtype.code
        return _again, (self.numpy(), code)

    def __repr__(self) -> str:
        if self._dtype is None or isinstance(self._data, SparseTensor):
            return f"OrtValue({self.data_type() or 'nothing'})"
        return f"OrtValue({self.data_type()}, shape={self.shape()}, device={self.device_name()!r})"


class OrtValueVector:
    """A list of OrtValues under onnxruntime's method names."""

    def __init__(self, values: Iterable[OrtValue] = ()):
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, position: int) -> OrtValue:
        return self._values[position]

    def __iter__(self) -> Iterator[OrtValue]:
        return iter(self._values)

    def push_back(self, value: Any) -> None:
        """Append one.

        Raises TypeError for what is no OrtValue.
        """
        if not isinstance(value, OrtValue):
            raise TypeError(f"an OrtValue is wanted, not {type(value).__name__}")
        self._values.append(value)

    def push_back_batch(
        self,
        tensors: Sequence[Any],
        pointers: Sequence[int],
        types: Sequence[Any],
        shapes: Sequence[Sequence[int]],
        devices: Sequence[OrtDevice],
    ) -> None:
        """Append one for each array of another library, by where its memory is; `tensors` are kept alive."""
        for tensor, pointer, kind, shape, device in zip(tensors, pointers, types, shapes, devices, strict=True):
            self._values.append(from_pointer(pointer, shape, element_dtype(kind), device, keep=tensor))

    def reserve(self, size: int) -> None:
        """Accepted: lists grow by themselves."""

    def shrink_to_fit(self) -> None:
        """Accepted: lists shrink by themselves."""

    def dlpack_at(self, position: int) -> Any:
        """The DLPack capsule of one."""
        return self._values[position].__dlpack__()

    def element_type_at(self, position: int) -> int:
        """ONNX's number of the element type of one."""
        return self._values[position].element_type()

    def bool_tensor_indices(self) -> list[int]:
        """Which of them are of bool."""
        return [i for i, value in enumerate(self._values) if value.data_type() == "tensor(bool)"]

    def to_dlpacks(self, to_tensor: Any = None) -> list[Any]:
        """The DLPack capsules of all, each through `to_tensor` where that is given."""
        capsules = [value.__dlpack__() for value in self._values]
        return capsules if to_tensor is None else [to_tensor(capsule) for capsule in capsules]


class _Capsule:
    """A DLPack capsule, as something that has one."""

    def __init__(self, capsule: Any):
        if type(capsule).__name__ != "PyCapsule":
            raise TypeError(f"{type(capsule).__name__} has no __dlpack__ and is no DLPack capsule")
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (DLPACK_CPU, 0)


def _of_library(data: Any) -> OrtValue:
    """The value of an array of another library."""
    owner = provider.owner(data)
    kind, number = data.__dlpack_device__()
    if DLPACK_NAMES.get(int(kind), "cpu") != "cpu":
        if owner is None:
            raise RuntimeError(f"nobody here knows {type(data).__name__}, whose device is DLPack's number {kind}")
        name = owner.xp.dtype_name(data.dtype)
        return OrtValue.of(data, dtypes.by_name(name), OrtDevice.make(DLPACK_NAMES[int(kind)], int(number)))
    try:
        array = np.from_dlpack(data)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        if owner is None or owner.name == provider.CPU:
            raise RuntimeError(f"an array of {type(data).__name__} cannot be taken by DLPack: {error}") from error
        array = owner.to_numpy(data)
    if not array.flags.c_contiguous:
        raise RuntimeError("ORT only supports contiguous tensor for now.")
    return OrtValue.of(array)


def from_pointer(pointer: int, shape: Sequence[int], dtype: DType, device: OrtDevice, keep: Any = None) -> OrtValue:
    """A tensor over memory of somebody else's, who keeps it until the value is gone; or `keep`, which is held."""
    if dtype.kind == "S":
        raise RuntimeError("Only binding of non-string Tensors is currently supported")
    if device.device_type() != OrtDevice.cpu():
        there = _provider_of(device)
        if dtype.name not in there.storage:
            raise RuntimeError(f"{there.library} has no {dtype}")
        return OrtValue.of(there.from_pointer(int(pointer), [int(d) for d in shape], dtype, keep), dtype, device)
    storage = dtypes.to_numpy(dtype)
    size = storage.itemsize
    for d in shape:
        size *= int(d)
    memory: Any = (ctypes.c_byte * size).from_address(int(pointer)) if size else b""
    array = np.frombuffer(memory, storage).reshape([int(d) for d in shape])
    value = OrtValue.of(array, dtype)
    if keep is not None and size:
        memory._keep = keep
    return value


def element_dtype(element_type: Any) -> DType:
    """An element type from a NumPy dtype, type or name, a Python type, or ONNX's number. Raises RuntimeError."""
    if isinstance(element_type, DType):
        return element_type
    if isinstance(element_type, int) and not isinstance(element_type, bool):
        return _by_code(element_type)
    try:
        return dtypes.of_numpy(np.dtype(element_type))
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"Not a valid element type: {element_type!r} ({error})") from None


def _by_code(code: int) -> DType:
    try:
        return dtypes.by_code(int(code))
    except ValueError as error:
        raise RuntimeError(str(error)) from None


def _known(dtype: DType | None) -> DType:
    assert dtype is not None
    return dtype


def _device(device_type: str | OrtDevice, device_id: int, vendor_id: int) -> OrtDevice:
    return device_type if isinstance(device_type, OrtDevice) else OrtDevice.make(device_type, device_id, vendor_id)


def _placed(array: np.ndarray, dtype: DType, device: OrtDevice) -> OrtValue:
    """The array where the device is."""
    if device.device_type() == OrtDevice.cpu():
        return OrtValue.of(array, dtype, device)
    return OrtValue.of(_provider_of(device).from_numpy(array), dtype, device)


def _provider_of(device: OrtDevice) -> provider.ExecutionProvider:
    """Whose arrays lie on a device. Raises RuntimeError where nobody's do."""
    name = PROVIDER_OF_DEVICE.get(device.name)
    if name is None or name not in provider.usable():
        raise RuntimeError(
            f"Can't allocate memory on the device using this package of OnnxRuntime. No provider for {device.name!r} "
            f"is usable here: {', '.join(provider.usable())}"
        )
    return provider.create(name, {"device_id": str(device.device_id())})


def _write(array: Any, values: Any) -> None:
    """Overwrite another library's array. Raises RuntimeError where it is read-only."""
    owner, source = provider.owner(array), provider.owner(values)
    if owner is None or source is None or owner.immutable:
        raise RuntimeError("The memory of this OrtValue is read-only.")
    with owner.context():
        owner.write(array, transfer(values, source, owner))


def _unpacked(packed: np.ndarray, dtype: DType) -> np.ndarray:
    """Elements of less than a byte from bytes that hold several, the first in the lowest bits."""
    storage, each = dtypes.to_numpy(dtype), 8 // dtype.bits
    raw = np.ascontiguousarray(packed).reshape(-1).view(np.uint8)[: -(-packed.size // each)]
    found = (raw[:, None] >> (dtype.bits * np.arange(each, dtype=np.uint8))) & (2**dtype.bits - 1)
    found = found.reshape(-1)[: packed.size].reshape(packed.shape)
    sign = 2 ** (dtype.bits - 1) if dtype.kind == "i" else 0
    result: np.ndarray = (
        found.view(storage) if dtype.kind == "f" else ((found.astype(np.int8) ^ sign) - sign).astype(storage)
    )
    return result


def _again(data: Any, code: int | None) -> OrtValue:
    """An OrtValue that was pickled."""
    if isinstance(data, SparseTensor):
        return OrtValue.ort_value_from_sparse_tensor(data)
    return OrtValue.of(data, None if code is None else dtypes.by_code(code))


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Copy tensors into the memory of others, pair by pair, of the same type and shape; `stream` has no effect.

    Raises InvalidArgument where two do not fit, RuntimeError where there are not as many of each, or none, and what
    `OrtValue.update_inplace` raises.

    Example:
        >>> source, target = (OrtValue.ortvalue_from_numpy(np.float32(x)) for x in ([1, 2], [0, 0]))
        >>> copy_tensors([source], [target])
        >>> target.numpy().tolist()
        [1.0, 2.0]

    """
    if len(src) != len(dst) or not len(src):
        raise RuntimeError(f"Invalid arguments provided to CopyTensors: {len(src)} tensors for {len(dst)}")
    for source, target in zip(src, dst, strict=True):
        if source.element_type() != target.element_type() or source.shape() != target.shape():
            raise InvalidArgument(f"{source!r} cannot be copied to {target!r}: types and shapes must be the same")
        target.update_inplace(source)
