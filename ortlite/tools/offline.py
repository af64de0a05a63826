"""Rows of a file through a model into another file, on one machine: what `ortlite run --output` does.

Blocks of rows are read and run in worker processes (or here, where there is one worker), and written by this process in
their order. The output gets its name when it is complete: until then it is called .NAME.partial.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from ortlite import progress
from ortlite.atomic import naming
from ortlite.batches import Job
from ortlite.processors import available
from ortlite.rows import Port
from ortlite.tools import tables
from ortlite.tools.inputs import unreadable

__all__ = ["Done", "run_files"]

RUNS = 16  # of the model in one block at most,
BLOCK_BYTES = 1 << 26  # unless the rows of so many are larger than this
LIVES = 3  # workers that may die over one block

Block: TypeAlias = Any  # what a source says of some rows: picklable


@dataclass(frozen=True)
class Done:
    """What was written."""

    rows: int
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape
    workers: int
    died: int


class Reader(Protocol):
    """Rows in files; pickled to the workers."""

    @property
    def count(self) -> int:
        """How many."""

    def blocks(self, size: int) -> Iterator[Block]:
        """All rows, `size` at a time."""

    def sent(self, block: Block) -> Block:
        """What of it a worker needs."""

    def read(self, block: Block) -> Mapping[str, Any]:
        """The rows, for each input of the model; from what is sent."""

    def carried(self, block: Block) -> Any:
        """The columns of a table that the model does not read, as a pyarrow Table; None where there are none."""


def run_files(
    job: Job,
    given: Sequence[str],
    output: Path,
    *,
    columns: Mapping[str, Sequence[str]] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    workers: int = 1,
) -> Done:
    """Run all rows of `given` ("FILE", or "INPUT=FILE" for one of several inputs) and write the results to `output`.

    `columns` says which columns (or arrays of a group) make an input: INPUT -> names. `mean` and `std` are taken from
    and divide pictures in floats, which run from 0 to 1 before, channel by channel. A worker that dies is replaced,
    and its block run again.

    Raises ValueError for files of another kind, or that do not fit the model; FileExistsError for a folder that is
    there; RuntimeError for a block over which three workers died; and what `Job.run` raises.
    """
    reader = opened(job, given, columns or {}, mean, std)
    port_bytes = sum(
        prod(d for d in port.row or () if isinstance(d, int)) * port.dtype.bits // 8 for port in job.inputs
    )
    share = -(-reader.count // (job.size * workers))  # of few rows each worker gets some
    runs = max(1, min(RUNS, share, BLOCK_BYTES // max(1, port_bytes * job.size)))
    size = runs * job.size
    workers = max(1, min(workers, -(-reader.count // size)))
    written: dict[str, tuple[str, tuple[int, ...]]] = {}
    done = 0
    progress.say("running", done, reader.count)
    team = _Team(job, reader, workers, size)
    with _replacing(output) as partial, tables.writer(output, partial, reader.count, size) as write:
        with closing(team.results() if workers > 1 else _alone(job, reader, size)) as results:
            for block, outputs in results:
                write(done, outputs, reader.carried(block))
                done += len(next(iter(outputs.values())))
                progress.say("running", done, reader.count)
                written = {name: (str(a.dtype), (reader.count, *a.shape[1:])) for name, a in outputs.items()}
        if not reader.count:
            outputs = job.run({port.name: [] for port in job.inputs})
            write(0, outputs, None)
            written = {name: (str(a.dtype), a.shape) for name, a in outputs.items()}
        elif done != reader.count:
            raise RuntimeError(f"{', '.join(given)}: {done} rows came, of {reader.count}")
    return Done(done, written, workers, team.died)


Results: TypeAlias = "Generator[tuple[Block, dict[str, np.ndarray]]]"


def _alone(job: Job, reader: Reader, size: int) -> Results:
    for index, block in enumerate(reader.blocks(size)):
        yield block, job.run(reader.read(reader.sent(block)), 0, index * size)


class _Team:
    """Worker processes, each with one session; who dies is replaced."""

    def __init__(self, job: Job, reader: Reader, workers: int, size: int):
        self.job, self.reader, self.workers, self.size = job, reader, workers, size
        self.died = 0

    def results(self) -> Results:
        """What comes of the blocks, in their order; twice as many as there are workers are under way."""
        waiting: deque[tuple[int, Block, Future[dict[str, np.ndarray]]]] = deque()
        blocks = enumerate(self.reader.blocks(self.size))
        pool = self._pool()
        lost = 0
        try:
            while True:
                try:
                    while len(waiting) < 2 * self.workers and (block := next(blocks, None)) is not None:
                        waiting.append((*block, Future()))
                        waiting[-1] = self._given(pool, *block)
                    if not waiting:
                        return
                    outputs = waiting[0][-1].result()
                except BrokenProcessPool:
                    lost, self.died = lost + 1, self.died + 1
                    if lost == LIVES:
                        raise RuntimeError(
                            f"{self.job.called}: {LIVES} worker processes died over the same rows; is there enough "
                            "memory for so many workers?"
                        ) from None
                    pool.shutdown(wait=True)
                    pool = self._pool()
                    todo = list(waiting)
                    waiting.clear()
                    waiting.extend(w if _has_result(w[-1]) else self._given(pool, *w[:2]) for w in todo)
                    continue
                lost = 0
                _, done, _ = waiting.popleft()
                yield done, outputs
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _given(
        self, pool: ProcessPoolExecutor, index: int, block: Block
    ) -> tuple[int, Block, Future[dict[str, np.ndarray]]]:
        return index, block, pool.submit(_work, self.reader.sent(block), index * self.size)

    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        arguments = self.job, self.reader, max(1, available() // self.workers)
        pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin, initargs=arguments)
        with _deaf():
            for _ in range(self.workers):
                pool.submit(int)  # each starts a process
        return pool


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start within are not ended by Ctrl-C, not even before they are ready."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


_given: list[Any] = []  # in a worker: the job, the reader, how many threads


def _begin(job: Job, reader: Reader, threads: int) -> None:
    """Make a worker ready. Ctrl-C is for the process that started it; when that one dies, this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _given[:] = job, reader, threads


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(block: Block, first: int) -> dict[str, np.ndarray]:
    job, reader, threads = _given
    found: dict[str, np.ndarray] = job.run(reader.read(block), threads, first)
    return found


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """Where to write what shall be called `output`; it is called so at the end, and is gone after an error."""
    if output.is_dir():
        raise FileExistsError(f"{output} is there already: remove it, or give --output another name")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no folder to write {output.name} to")
    partial = output.with_name(f".{output.name}.partial")
    _remove(partial)  # of a process that was killed
    try:
        with naming(output, partial):
            yield partial
            partial.replace(output)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def opened(
    job: Job,
    given: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Reader:
    """A reader of files. Raises ValueError for what is no file of rows, or does not have the model's inputs."""
    names = [port.name for port in job.inputs]
    if unknown := columns.keys() - set(names):
        raise ValueError(f"--columns {', '.join(sorted(unknown))}: {job.called} has the inputs {', '.join(names)}")
    files: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals and name in names and name not in files:
            files[name] = Path(path)
        elif len(given) == 1 and (not equals or Path(text).exists()):
            files[""] = Path(text)
        elif len(given) == 1:
            raise ValueError(
                f"--input {text}: there is no such file, and no input {name}; there are {', '.join(names)}"
            )
        else:
            raise ValueError(
                f"--input {text}: several files are given as INPUT=FILE, and the inputs are {', '.join(names)}"
            )
    if missing := [path for path in files.values() if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(map(str, missing))}: no such file or folder")
    alone = files.get("")
    if alone is not None and alone.suffix == ".parquet":
        return Parquet.of(job, alone, columns)
    if alone is not None and alone.is_dir() and alone.suffix != ".zarr":
        if columns:
            raise ValueError("--columns is for tables and groups of arrays, not for folders of images")
        return Pictures.of(job, alone, mean, std)
    if mean or std:
        raise ValueError("--mean and --std are for folders of images")
    return Arrays.of(job, files, columns)


@dataclass(frozen=True)
class Arrays:
    """NumPy's files, mapped, and Zarr arrays or groups."""

    places: Mapping[str, Sequence[tuple[str, str]]]  # input -> file, and name in a group
    count: int

    @staticmethod
    def of(job: Job, files: Mapping[str, Path], columns: Mapping[str, Sequence[str]]) -> Arrays:
        """Find the array of each input."""
        places: dict[str, list[tuple[str, str]]] = {}
        for port in job.inputs:
            path = files.get(port.name, files.get(""))
            if path is None:
                raise ValueError(f"{job.called}: there is no --input {port.name}=FILE")
            if path.suffix not in {".npy", ".zarr"}:
                raise ValueError(f"{path} is no .npy, .zarr or .parquet, and no folder of images")
            keys = columns.get(port.name) or [port.name]
            if path.suffix == ".npy" or not tables.is_group(str(path)):
                if len(job.inputs) > 1 and port.name not in files:
                    raise ValueError(
                        f"{path} is one array, {job.called} has several inputs: --input INPUT=FILE for each"
                    )
                if port.name in columns:
                    raise ValueError(f"--columns {port.name}: {path} is one array: it has no columns {', '.join(keys)}")
                keys = [""]
            places[port.name] = [(str(path), key) for key in keys]
        lengths = {f"{path} {key}".strip(): _array(path, key).shape[0] for at in places.values() for path, key in at}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"different numbers of rows: {lengths}")
        return Arrays(places, next(iter(lengths.values())))

    def blocks(self, size: int) -> Iterator[Block]:
        """From where to where."""
        return ((start, min(start + size, self.count)) for start in range(0, self.count, size))

    def sent(self, block: Block) -> Block:
        """Where from and to is all."""
        return block

    def read(self, block: Block) -> dict[str, Any]:
        """Those rows of each array."""
        return {
            name: tables.together([np.asarray(_array(path, key)[slice(*block)]) for path, key in at])
            for name, at in self.places.items()
        }

    def carried(self, block: Block) -> None:
        """Arrays have no further columns."""


@cache
def _array(path: str, key: str) -> Any:
    if path.endswith(".npy"):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise unreadable(path, error) from None
    else:
        array = tables.zarr_array(path, key)
    if not array.ndim:
        raise ValueError(f"{path} {key}: a single value has no rows")
    return array


@dataclass(frozen=True)
class Parquet:
    """A Parquet file: read here, block by block, and sent to the workers."""

    path: str
    columns: Mapping[str, Sequence[str]]
    count: int

    @staticmethod
    def of(job: Job, path: Path, columns: Mapping[str, Sequence[str]]) -> Parquet:
        """Find the columns of each input."""
        file = tables.parquet(str(path))
        there = file.schema_arrow.names
        chosen = {port.name: columns.get(port.name) or [port.name] for port in job.inputs}
        for name, wanted in chosen.items():
            if lost := [column for column in wanted if column not in there]:
                raise ValueError(
                    f"{path} has no column {', '.join(lost)} for input {name!r}; it has {', '.join(there)}. Say which "
                    f"make the input: --columns {name}=A,B"
                )
        return Parquet(str(path), chosen, file.metadata.num_rows)

    def blocks(self, size: int) -> Iterator[Block]:
        """Tables of so many rows."""
        return tables.parquet_blocks(self.path, size)

    def sent(self, block: Block) -> Block:
        """The columns that the model reads."""
        return block.select([c for wanted in self.columns.values() for c in wanted])

    def read(self, block: Block) -> dict[str, Any]:
        """The columns as arrays."""
        return {
            name: tables.together([tables.numpy_of(block.column(c), f"{self.path}, column {c}") for c in wanted])
            for name, wanted in self.columns.items()
        }

    def carried(self, block: Block) -> Any:
        """The other columns."""
        return block.drop_columns([c for wanted in self.columns.values() for c in wanted if c in block.column_names])


@dataclass(frozen=True)
class Pictures:
    """The images of a folder, by name."""

    files: Sequence[str]
    port: Port
    mean: Sequence[float]
    std: Sequence[float]

    @staticmethod
    def of(job: Job, folder: Path, mean: Sequence[float], std: Sequence[float]) -> Pictures:
        """List a folder. Raises ValueError for a model of several inputs, and for a folder without images."""
        if len(job.inputs) != 1:
            raise ValueError(f"{job.called} has several inputs ({', '.join(map(str, job.inputs))}), a folder one")
        files = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in tables.IMAGES)
        if not files:
            raise ValueError(f"{folder} has no images ({', '.join(sorted(tables.IMAGES))})")
        if (mean or std) and job.inputs[0].dtype.kind != "f":
            raise ValueError(f"--mean and --std are for images in floats, and {job.called} takes {job.inputs[0]}")
        return Pictures(files, job.inputs[0], mean, std)

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.files)

    def blocks(self, size: int) -> Iterator[Block]:
        """Some of the paths."""
        return (self.files[start : start + size] for start in range(0, self.count, size))

    def sent(self, block: Block) -> Block:
        """The paths are all."""
        return block

    def read(self, block: Block) -> dict[str, Any]:
        """The pixels, as the input's shape says."""
        return {self.port.name: [tables.picture(self.port, Path(path), self.mean, self.std) for path in block]}

    def carried(self, block: Block) -> Any:
        """The files' names."""
        return tables.named("file", [Path(path).name for path in block])
