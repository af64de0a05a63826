"""Columns of files as NumPy arrays and back: NumPy's own files, Zarr, Parquet, images. Their packages are optional."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ortlite.rows import Port

__all__ = [
    "IMAGES", "arrow_of", "is_group", "named", "numpy_of", "parquet", "parquet_blocks", "picture", "together",
    "writable", "writer", "zarr_array",
]  # fmt: skip

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

Write: TypeAlias = Callable[[int, Mapping[str, np.ndarray], Any], None]  # from which row on, outputs, further columns


def needed(package: str, extra: str, what: str) -> Any:
    """A package that ortlite does not ask for by itself. Raises ImportError that names the extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{what} needs {package.partition('.')[0]}: pip install 'ortlite[{extra}]'") from error


def together(columns: Sequence[np.ndarray]) -> np.ndarray:
    """One array as it is; several, of one number a row each, side by side."""
    if len(columns) == 1:
        return columns[0]
    if any(column.ndim != 1 for column in columns):
        raise ValueError(f"columns of shapes {[list(c.shape[1:]) for c in columns]} a row are not put side by side")
    return np.stack(columns, axis=1)


def writable(array: np.ndarray) -> np.ndarray:
    """An array in a dtype that files know: the narrow floats as float32, the narrow integers as int8 and uint8."""
    if array.dtype.isbuiltin == 1:
        return array
    name = array.dtype.name
    return array.astype(np.uint8 if name.startswith("uint") else np.int8 if name.startswith("int") else np.float32)


# Zarr


def _zarr() -> Any:
    return needed("zarr", "files", "a .zarr")


def is_group(path: str) -> bool:
    """Whether a .zarr is a group of arrays. Raises ValueError where it is no Zarr."""
    zarr = _zarr()
    try:
        return isinstance(zarr.open(path, mode="r"), zarr.Group)
    except FileNotFoundError:
        raise ValueError(f"{path} is no Zarr array or group") from None


def zarr_array(path: str, key: str) -> Any:
    """An array of a .zarr. Raises ValueError where it has none of that name."""
    opened = _zarr().open(path, mode="r")
    if not key:
        return opened
    if key not in opened:
        raise ValueError(f"{path} has no array {key!r}; it has {', '.join(sorted(opened.array_keys()))}")
    return opened[key]


# Parquet


@cache
def parquet(path: str) -> Any:
    """A Parquet file, open."""
    return needed("pyarrow.parquet", "files", "a .parquet").ParquetFile(path)


def parquet_blocks(path: str, size: int) -> Iterator[Any]:
    """Tables of `size` rows, the last of fewer."""
    pyarrow = needed("pyarrow", "files", "a .parquet")
    held: list[Any] = []
    count = 0
    for batch in parquet(path).iter_batches(batch_size=size):  # these end with each row group
        held.append(batch)
        count += len(batch)
        while count >= size:
            table = pyarrow.Table.from_batches(held)
            yield table.slice(0, size).combine_chunks()
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield pyarrow.Table.from_batches(held).combine_chunks()


def numpy_of(column: Any, called: str) -> np.ndarray:
    """A column of a table; lists of one length become axes. Raises ValueError for a column with nulls."""
    pyarrow = needed("pyarrow", "files", "a .parquet")
    array = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    if array.null_count:
        raise ValueError(f"{called} has {array.null_count} nulls: fill or drop these rows before")
    kind = pyarrow.types
    if kind.is_dictionary(array.type):
        return numpy_of(array.dictionary_decode(), called)
    lists = kind.is_list(array.type) or kind.is_large_list(array.type) or kind.is_fixed_size_list(array.type)
    if not lists:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    inner = numpy_of(array.flatten(), called)
    lengths = np.unique(array.value_lengths().to_numpy(zero_copy_only=False)) if len(array) else np.zeros(1, np.int64)
    if len(lengths) > 1:
        raise ValueError(f"{called} has lists of {lengths.min()} to {lengths.max()} elements: rows of different shapes")
    return inner.reshape(len(array), int(lengths[0]), *inner.shape[1:])


def arrow_of(array: np.ndarray) -> Any:
    """An array as a column: its axes after the first as lists of fixed size."""
    pyarrow = needed("pyarrow", "files", "a .parquet")
    array = writable(array)
    if array.dtype.kind == "c":
        raise ValueError("Parquet has no complex numbers: write a .npy or .zarr")
    column = pyarrow.array(array.reshape(-1).tolist() if array.dtype == object else array.reshape(-1))
    if 0 in array.shape[1:]:
        raise ValueError(f"rows of shape {list(array.shape[1:])} have no elements: a table cannot hold them")
    for length in reversed(array.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, length)
    return column


def named(name: str, values: Sequence[str]) -> Any:
    """A table of one column; None where nothing can hold one."""
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError:
        return None
    return pyarrow.table({name: list(values)})


# Images


def picture(port: Port, path: Path, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """One image as a row of an input: scaled to its height and width, in floats (pixels / 255 - mean) / std."""
    from ortlite.tools import inputs

    row = port.row
    if row is None or len(row) not in {2, 3}:
        raise ValueError(f"input {port} has no rows that are pictures")
    pixels: np.ndarray = inputs.picture(port.name, row, path, port.dtype)
    if not mean and not std:
        return pixels
    last = len(row) == 3 and row[2] in {1, 3, 4} and row[0] not in {1, 3, 4}
    form = (-1,) if len(row) == 2 or last else (-1, 1, 1)
    shift, scale = (np.array(given or [empty], np.float32).reshape(form) for given, empty in ((mean, 0), (std, 1)))
    moved = (pixels - shift) / scale
    if moved.shape != pixels.shape:
        raise ValueError(
            f"{len(mean) or len(std)} numbers for --mean or --std do not fit pictures {list(pixels.shape)}"
        )
    return moved


# Writing


@contextmanager
def writer(output: Path, partial: Path, count: int, block: int) -> Iterator[Write]:
    """What writes outputs, row after row, into a file of the kind that `output`'s name says, at `partial`.

    .npy holds one output, .zarr and .parquet any number, and a folder one .npy for each. Raises ValueError for another.
    """
    kinds = {".npy": _npy, ".zarr": _zarr_group, ".parquet": _parquet, "": _npy_folder}
    make = kinds.get(output.suffix)
    if make is None:
        raise ValueError(f"--output {output}: write a .npy, .zarr, .parquet, or a folder (a name without a suffix)")
    with make(partial, count, block) as write:
        yield write


@contextmanager
def _npy(path: Path, count: int, block: int) -> Iterator[Write]:
    mapped: dict[str, np.ndarray] = {}

    def write(start: int, outputs: Mapping[str, np.ndarray], carried: Any) -> None:
        if len(outputs) > 1:
            raise ValueError(f"a .npy holds one of the outputs {', '.join(outputs)}: --take one, or write another kind")
        for name, array in outputs.items():
            _into(mapped, name, path, count, start, array)

    yield write
    _flush(mapped)


@contextmanager
def _npy_folder(path: Path, count: int, block: int) -> Iterator[Write]:
    mapped: dict[str, np.ndarray] = {}
    path.mkdir()

    def write(start: int, outputs: Mapping[str, np.ndarray], carried: Any) -> None:
        for name, array in outputs.items():
            _into(mapped, name, path / f"{_file_name(name)}.npy", count, start, array)

    yield write
    _flush(mapped)


def _file_name(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "_"


def _into(mapped: dict[str, np.ndarray], name: str, path: Path, count: int, start: int, array: np.ndarray) -> None:
    array = writable(array)
    if array.dtype == object:
        raise ValueError(f"output {name!r} is text, which a .npy holds in no row-by-row way: write a .parquet")
    if name not in mapped:
        if 0 in (count, *array.shape[1:]):  # nothing to map
            with path.open("wb") as file:
                np.save(file, np.empty((count, *array.shape[1:]), array.dtype))
            return
        if path.exists():
            raise ValueError(f"output {name!r} and another would both be called {path.name}: --take one of them")
        mapped[name] = np.lib.format.open_memmap(path, "w+", array.dtype, (count, *array.shape[1:]))
        if hasattr(os, "posix_fallocate"):  # to write to a map of what a full disk has no room for ends the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    _same_rows(name, mapped[name].shape[1:], array)
    mapped[name][start : start + len(array)] = array


def _same_rows(name: str, row: tuple[int, ...], array: np.ndarray) -> None:
    if row != array.shape[1:]:
        raise ValueError(f"output {name!r} has rows of shape {list(row)}, and then {list(array.shape[1:])}")


def _flush(mapped: Mapping[str, np.ndarray]) -> None:
    for array in mapped.values():
        array.flush()  # type: ignore[attr-defined]


@contextmanager
def _zarr_group(path: Path, count: int, block: int) -> Iterator[Write]:
    group = _zarr().open_group(path, mode="w")
    made: dict[str, Any] = {}

    def write(start: int, outputs: Mapping[str, np.ndarray], carried: Any) -> None:
        for name, array in outputs.items():
            array = writable(array)
            if array.dtype == object:
                array = array.astype(np.dtypes.StringDType())
            if name not in made:
                row = array.shape[1:]
                made[name] = group.create_array(
                    name,
                    shape=(count, *row),
                    dtype=array.dtype,
                    chunks=(max(1, min(block, count)), *(max(1, d) for d in row)),
                )
            _same_rows(name, made[name].shape[1:], array)
            made[name][start : start + len(array)] = array

    yield write


@contextmanager
def _parquet(path: Path, count: int, block: int) -> Iterator[Write]:
    pyarrow, parquet_ = needed("pyarrow", "files", "a .parquet"), needed("pyarrow.parquet", "files", "a .parquet")
    file: Any = None

    def write(start: int, outputs: Mapping[str, np.ndarray], carried: Any) -> None:
        nonlocal file
        columns = {} if carried is None else {name: carried.column(name) for name in carried.column_names}
        if both := columns.keys() & outputs.keys():
            raise ValueError(f"the table has a column {', '.join(both)} already, as an output is called: --take others")
        table = pyarrow.table({**columns, **{name: arrow_of(array) for name, array in outputs.items()}})
        if file is None:
            file = parquet_.ParquetWriter(path, table.schema)
        for name, type_ in zip(table.schema.names, table.schema.types, strict=True):
            if file.schema.field(name).type != type_:
                raise ValueError(f"output {name!r} has rows of type {file.schema.field(name).type}, and then {type_}")
        file.write_table(table)

    try:
        yield write
    finally:
        if file is not None:
            file.close()
