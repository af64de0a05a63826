"""LoRA adapters: files of named parameters that a run feeds to a model's overridable initializers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite import dtypes

if TYPE_CHECKING:
    from ortlite.api.ortvalue import OrtValue
    from ortlite.load.tables import File, Table

__all__ = ["AdapterFormat", "LoraAdapter"]

IDENTIFIER = b"TORT"
FORMAT_VERSION = 1
ALIGNED = 8  # a parameter's data begins at a multiple of so many bytes
FIELDS = {
    "Adapter": "format_version adapter_version model_version parameters",
    "Parameter": "name dims data_type raw_data",
}


class AdapterFormat:
    """An adapter as Python has it: versions and parameters, to be written to a file or read from one.

    Example:
        >>> import numpy as np, tempfile, ortlite
        >>> adapter = AdapterFormat()
        >>> adapter.set_adapter_version(2)
        >>> adapter.set_parameters({"w": ortlite.OrtValue.ortvalue_from_numpy(np.ones(3, np.float32))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     adapter.export_adapter(f"{folder}/a.onnx_adapter")
        ...     read = AdapterFormat.read_adapter(f"{folder}/a.onnx_adapter")
        >>> read.get_adapter_version(), read.get_parameters()["w"].numpy().tolist()
        (2, [1.0, 1.0, 1.0])

    """

    def __init__(self) -> None:
        self._format_version = FORMAT_VERSION
        self._adapter_version = 0
        self._model_version = 0
        self._parameters: dict[str, OrtValue] = {}

    @staticmethod
    def read_adapter(file_path: str | os.PathLike[str]) -> AdapterFormat:
        """The adapter in a file; its parameters are views of the file. Raises RuntimeError where it is none."""
        result = AdapterFormat()
        versions, result._parameters = _read(file_path)
        result._format_version, result._adapter_version, result._model_version = versions
        return result

    def export_adapter(self, file_path: str | os.PathLike[str]) -> None:
        """Write the adapter to a file. Raises RuntimeError where that cannot be done."""
        data = _written(self._adapter_version, self._model_version, self._parameters)
        try:
            Path(file_path).write_bytes(data)
        except OSError as error:
            path = os.fspath(file_path)
            raise RuntimeError(f'Failed to open file:"{path}" for writing. ({error.strerror})') from error

    def get_format_version(self) -> int:
        """The version of the file format."""
        return self._format_version

    def set_adapter_version(self, adapter_version: int) -> None:
        """Say which version of the adapter this is."""
        self._adapter_version = _whole(adapter_version, "adapter_version")

    def get_adapter_version(self) -> int:
        """Which version of the adapter this is."""
        return self._adapter_version

    def set_model_version(self, model_version: int) -> None:
        """Say which version of the model the adapter is for."""
        self._model_version = _whole(model_version, "model_version")

    def get_model_version(self) -> int:
        """Which version of the model the adapter is for."""
        return self._model_version

    def set_parameters(self, params: Mapping[str, OrtValue]) -> None:
        """Set the parameters, by the names of the model's inputs that they are fed to."""
        for name, value in params.items():
            if not hasattr(value, "element_type"):
                raise AttributeError(f"parameter {name!r} is an OrtValue, not {type(value).__name__}")
        self._parameters = dict(params)

    def get_parameters(self) -> dict[str, OrtValue]:
        """The parameters, by name."""
        return dict(self._parameters)


class LoraAdapter:
    """An adapter for `RunOptions.add_active_adapter`: `Load` reads a file that `AdapterFormat.export_adapter` wrote.

    One that has not been loaded has no parameters. They are fed, by name, to inputs of the model.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, OrtValue] = {}

    def Load(self, file_path: str | os.PathLike[str]) -> None:  # noqa: N802  (onnxruntime's name)
        """Map an adapter's file into memory. Raises RuntimeError where it is none."""
        self.parameters = _read(file_path)[1]


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int | np.integer):
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    return int(value)


def _read(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], dict[str, OrtValue]]:
    """The versions of format, adapter and model, and the parameters of a file."""
    from ortlite.load.files import opened
    from ortlite.load.tables import DAMAGED, File, fields

    try:
        with opened(path) as file:
            size = os.fstat(file).st_size
            # a private copy of the pages that somebody writes to: the arrays may be written, the file stays
            data = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY)) if size else memoryview(b"")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RuntimeError(f"{os.fspath(path)}: {problem}") from error
    if data[4:8] != IDENTIFIER:
        raise RuntimeError("The buffer does not appear to be a valid lora parameter format")
    try:
        contents = File(data, fields(FIELDS), "An adapter is")
        root = contents.root("Adapter")
        versions = root.number("format_version"), root.number("adapter_version"), root.number("model_version")
        found = dict(_parameter(table, contents) for table in root.children("parameters", "Parameter"))
    except DAMAGED as error:
        raise RuntimeError(f"The buffer fails lora adapter format verification ({error})") from error
    if versions[0] != FORMAT_VERSION:
        raise RuntimeError(f"The adapter has the format version {versions[0]}; {FORMAT_VERSION} is supported.")
    return versions, found


def _parameter(table: Table, file: File) -> tuple[str, OrtValue]:
    from ortlite.api.ortvalue import OrtValue

    name, dims, code = table.text("name"), table.numbers("dims", "<i8"), table.number("data_type")
    start, count = table.elements("raw_data", 1)
    dtype = dtypes.by_code(code)
    if dtype.kind == "S":
        raise ValueError(f"Lora Param {name!r}: text cannot be a parameter")
    if min(dims, default=0) < 0 or count != -(-prod(dims) * dtype.bits // 8):
        raise ValueError(f"Lora Param {name!r}: {count} bytes are no {dtype}{dims}")
    if dtype.bits < 8:
        raise ValueError(f"Lora Param {name!r}: {dtype} cannot be a parameter")
    held = dtypes.to_numpy(dtype)
    raw = np.frombuffer(file.data, np.uint8, count, start) if count else np.empty(0, np.uint8)
    if held.isbuiltin == 1:
        return name, OrtValue.ortvalue_from_numpy(raw.view(held).reshape(dims))
    return name, OrtValue.ortvalue_from_numpy_with_onnx_type(raw.view(f"u{held.itemsize}").reshape(dims), code)


def _written(adapter_version: int, model_version: int, parameters: Mapping[str, OrtValue]) -> bytes:
    """The bytes of an adapter's file."""
    from ortlite.load.tables import flatbuffers

    package = flatbuffers("An adapter is")
    arrays = {name: np.asarray(value.numpy()) for name, value in parameters.items()}
    builder = package.Builder(1024 + sum(array.nbytes + 128 for array in arrays.values()))
    places = []
    for name, array in arrays.items():
        if array.dtype == object:
            raise RuntimeError(f"Lora Param {name!r}: text cannot be a parameter")
        data = _data(builder, array)
        dims = builder.CreateNumpyVector(np.array(array.shape, np.int64))
        written = builder.CreateString(name)
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, written, 0)
        builder.PrependUOffsetTRelativeSlot(1, dims, 0)
        builder.PrependInt32Slot(2, parameters[name].element_type(), 0)
        builder.PrependUOffsetTRelativeSlot(3, data, 0)
        places.append(builder.EndObject())
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    listed = builder.EndVector()
    builder.StartObject(4)
    for slot, number in enumerate((FORMAT_VERSION, adapter_version, model_version)):
        builder.PrependInt32Slot(slot, number, 0)
    builder.PrependUOffsetTRelativeSlot(3, listed, 0)
    builder.Finish(builder.EndObject(), IDENTIFIER)
    return bytes(builder.Output())


def _data(builder: Any, array: np.ndarray) -> int:
    """Where in `builder` the array's bytes lie from now on."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    builder.StartVector(1, raw.size, ALIGNED)
    builder.head -= raw.size
    builder.Bytes[builder.head : builder.head + raw.size] = raw.tobytes()
    return int(builder.EndVector())
