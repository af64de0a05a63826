"""Rows through a model in batches, for `ortlite.dask`, `ortlite.ray`, `ortlite.spark` and `ortlite run --output`.

A `Job` is a small picklable description: which model, how its sessions are made, which of its inputs have one row for
each row of the data, and how many rows go into one run. A worker turns it into one session a process.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ortlite.errors import Fail, InvalidArgument, NoSuchFile, OrtError
from ortlite.forks import renewed_after_fork
from ortlite.limits import Limits, applied, current
from ortlite.rows import Port, check_row, constant_of, joined, rows_of

if TYPE_CHECKING:
    from ortlite.api.options import SessionOptions
    from ortlite.api.pickles import Kept
    from ortlite.api.session import InferenceSession
    from ortlite.graph import Graph, Model

__all__ = ["ROWS", "Job", "Source"]

Source: TypeAlias = "str | os.PathLike[str] | bytes | InferenceSession"

ROWS = 64  # in one run, where nobody says another number
SESSIONS = 4  # that a process keeps: those of the jobs that it ran last
EMBEDDED = 1 << 24  # bytes of a file from which on its weights are put where processes share them


@dataclass(frozen=True, eq=False)
class Job:
    """A model and how rows go through it.

    `inputs` have rows, `constants` are fed whole to every run; `size` rows go into a run, with `fixed` always so many.
    Two jobs with one `token` give the same answers.
    """

    called: str
    source: str | bytes | Kept
    shared: str  # a copy with its weights in a file of their own, or ""
    digest: str  # of the file at `source`
    options: SessionOptions | None
    providers: tuple[Any, ...] | None
    keywords: Mapping[str, Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: Mapping[str, Any]
    size: int
    fixed: bool
    limits: Limits
    token: str

    @staticmethod
    def of(
        model: Source,
        *,
        outputs: Sequence[str] | None = None,
        constants: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        providers: Sequence[Any] | None = None,
        sess_options: SessionOptions | None = None,
        share: bool = True,
    ) -> Job:
        """Describe a model: a path, bytes, or a session, whose options and providers then count.

        `outputs` are names of outputs (default: all) or of other values of the main graph. `constants` are values for
        inputs that have no rows. `batch_size` rows go into a run at most (default: what the model declares, else 64).
        `share`: weights of 16 MiB and more that the file embeds are copied to the user's cache, once, into a file that
        processes map together.

        Raises what loading a model raises, InvalidArgument where an input or output cannot have rows.
        """
        from ortlite.api.source import plain

        source, options, chosen, keywords, loaded = _parts(model, sess_options, providers)
        called = source if isinstance(source, str) else "the model"
        constants = dict(constants or {})
        inputs, made = _ports(called, loaded, constants, outputs)
        constants = {name: constant_of(called, name, loaded, value) for name, value in constants.items()}
        size, fixed = _size(called, inputs, batch_size)
        digest, files = _stamp(source, options)
        limits = current()
        made_by = digest, files, options, chosen, sorted(keywords.items()), limits
        run_by = constants, [port.name for port in made], size
        token = hashlib.sha256(pickle.dumps((made_by, run_by))).hexdigest()
        shared = ""
        if share and isinstance(source, str) and not files and plain(options) and not limits.own_files:
            shared = _shared(source, digest)
        return Job(
            called,
            source,
            shared,
            digest,
            options,
            chosen,
            keywords,
            inputs,
            made,
            constants,
            size,
            fixed,
            limits,
            token,
        )

    def __dask_tokenize__(self) -> str:
        return self.token

    def session(self, threads: int = 0) -> InferenceSession:
        """The session of this process; made at the first call.

        `threads` work on one run (0: as many as there are processors); a number in the job's own options goes before.
        Raises NoSuchFile where the model is not there on this machine, Fail where another is in its place.
        """
        key = self.token, threads
        with _here.lock:
            if key in _here.sessions:
                _here.sessions.move_to_end(key)
                return _here.sessions[key]
            made = self._made(threads)
            _here.sessions[key] = made
            while len(_here.sessions) > SESSIONS:
                _here.sessions.popitem(last=False)
            return made

    def _made(self, threads: int) -> InferenceSession:
        from ortlite.api.options import SessionOptions
        from ortlite.api.pickles import found
        from ortlite.api.session import InferenceSession

        options = SessionOptions() if self.options is None else copy(self.options)
        if threads and not options.intra_op_num_threads:
            options.intra_op_num_threads = threads
        source = self.source
        if isinstance(source, str):
            if self.shared and Path(self.shared).exists():
                source = self.shared
            elif not Path(source).exists():
                raise NoSuchFile(f"{source} is not on this machine: a model's path must be there on every worker's")
            elif _digest(source) != self.digest:
                raise Fail(f"{source} is another model than when this work was described")
        with applied(self.limits):
            return InferenceSession(found(source), options, self.providers or [], **self.keywords)

    def run(self, columns: Mapping[str, Any], threads: int = 0, first: int | None = None) -> dict[str, np.ndarray]:
        """The outputs for rows: `columns` has an array, or a list of rows, for each of `inputs`, all of one length.

        The rows of a model of fixed batch size are filled up to it by repeating the last one; what comes of these is
        left out. `first` is what errors call the first row. Raises InvalidArgument for columns that do not fit, Fail
        for outputs that have no row for each row, and what a run raises, with the model and the rows before it.
        """
        feed = self.fitted(columns)
        count = len(next(iter(feed.values())))
        session = self.session(threads)
        if not count:
            return self._nothing(session, feed)
        starts = range(0, count, self.size)
        parts = [self._once(session, feed, start, min(start + self.size, count), first) for start in starts]
        made = zip(self.outputs, zip(*parts, strict=True), strict=True)
        return {port.name: joined(self.called, port, column) for port, column in made}

    def _once(
        self, session: InferenceSession, feed: Mapping[str, np.ndarray], start: int, stop: int, first: int | None
    ) -> list[np.ndarray]:
        count = stop - start
        given: dict[str, Any] = {name: column[start:stop] for name, column in feed.items()}
        fed = self.size if self.fixed else count
        if fed != count:
            given = {name: np.concatenate([a, np.repeat(a[-1:], fed - count, axis=0)]) for name, a in given.items()}
        begin, block = (start, " of a block") if first is None else (first + start, "")
        where = f"{self.called}, rows {begin} to {begin + count - 1}{block}"
        try:
            results = session.run([port.name for port in self.outputs], given | dict(self.constants))
        except OrtError as error:
            raise _placed(error, where) from error
        for port, result in zip(self.outputs, results, strict=True):
            if not isinstance(result, np.ndarray) or not result.ndim or len(result) != fed:
                got = f"{result.dtype}{list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
                others = ", ".join(p.name for p in self.outputs if p != port)
                raise Fail(
                    f"{where}: output {port} is {got} for {fed} rows, and not one row for each. Leave it out with "
                    f"outputs=[{others}]"
                )
        return [result[:count] for result in results] if fed != count else list(results)

    def _nothing(self, session: InferenceSession, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What comes of no rows: that of one row of zeros, which is then taken off."""
        one = {}
        for port in self.inputs:
            row = feed[port.name].shape[1:]
            one[port.name] = (
                np.full((1, *row), "", object) if port.dtype.kind == "S" else np.zeros((1, *row), feed[port.name].dtype)
            )
        made = self._once(session, one, 0, 1, None)
        return {port.name: result[:0] for port, result in zip(self.outputs, made, strict=True)}

    def fitted(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The columns as arrays of the model's dtypes and row shapes. Raises InvalidArgument where that cannot be."""
        names = [port.name for port in self.inputs]
        if missing := [name for name in names if name not in columns]:
            raise InvalidArgument(
                f"{self.called} has the inputs {', '.join(map(str, self.inputs))}: there is no column for "
                f"{', '.join(missing)} among {', '.join(map(str, columns)) or 'none'}"
            )
        feed = {port.name: rows_of(port, columns[port.name], self.called) for port in self.inputs}
        lengths = {name: len(array) for name, array in feed.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidArgument(f"{self.called}: the columns have different numbers of rows: {lengths}")
        return feed

    def shapes(self, given: Sequence[Mapping[str, Sequence[int | None]]]) -> list[dict[str, tuple[int | None, ...]]]:
        """The shapes of the outputs, for each of several sets of input shapes, without running anything.

        None is a dimension that nothing says before a run. The first one is the number of rows, whatever is declared.
        Raises InvalidArgument for shapes that do not fit.
        """
        for shapes in given:
            for port in self.inputs:
                check_row(self.called, port, shapes[port.name][1:])
        graph = _parts(self.source, self.options, self.providers)[-1].graph
        known = {name: np.asarray(value) for name, value in self.constants.items()}
        inputs = tuple(name for name in graph.inputs if name not in known)
        constants = {**graph.constants, **known}
        graph = replace(graph, inputs=inputs, constants=constants, outputs=tuple(port.name for port in self.outputs))
        return [self._shapes(graph, shapes) for shapes in given]

    def _shapes(self, graph: Graph, given: Mapping[str, Sequence[int | None]]) -> dict[str, tuple[int | None, ...]]:
        from ortlite.api.description import output_types
        from ortlite.graph import TensorType

        sizes: dict[str, int | None] = {}
        types = dict(graph.types)
        for port in self.inputs:
            shape = tuple(given[port.name])
            sizes |= {d: n for d, n in zip(port.shape or (), shape, strict=False) if isinstance(d, str)}
            types[port.name] = TensorType(port.dtype, shape)
        found = output_types(replace(graph, types=types))
        shapes: dict[str, tuple[int | None, ...]] = {}
        for port in self.outputs:
            type_ = found[port.name]
            dims = type_.shape if isinstance(type_, TensorType) and type_.shape is not None else port.shape
            if not dims:
                raise InvalidArgument(f"{self.called}: the rank of output {port} is not known before a run")
            rest = [sizes.get(d) if isinstance(d, str) else d for d in dims[1:]]
            shapes[port.name] = (given[self.inputs[0].name][0], *rest)
        return shapes


class _Here:
    """The sessions of this process."""

    lock: Any

    def __init__(self) -> None:
        self.sessions: OrderedDict[tuple[str, int], InferenceSession] = OrderedDict()
        renewed_after_fork(self, "lock", RLock)


_here = _Here()


def _parts(
    model: Source | Kept, options: SessionOptions | None, providers: Sequence[Any] | None
) -> tuple[str | bytes | Kept, SessionOptions | None, tuple[Any, ...] | None, dict[str, Any], Model]:
    """Where a model comes from, the options, providers and keywords of its sessions, and the model itself."""
    from ortlite.api.options import SessionOptions
    from ortlite.api.pickles import Kept, source_of
    from ortlite.api.session import InferenceSession
    from ortlite.api.source import loaded

    if isinstance(model, InferenceSession):
        if options is not None or providers is not None:
            raise TypeError("a session has its options and providers: give its model's path or bytes beside others")
        _, source, options, chosen, keywords = model.__reduce__()[1]
        return source, options, tuple(chosen), dict(keywords), model.model
    chosen = None if providers is None else tuple(providers)
    if isinstance(model, Kept):
        return model, options, chosen, {}, loaded(str(model.path), options or SessionOptions())
    if not isinstance(model, str | os.PathLike | bytes):
        raise TypeError(f"a model is a path, bytes or a session, not {type(model).__name__}")
    given = model if isinstance(model, bytes) else os.fspath(model)
    source = source_of(None, given) if isinstance(given, bytes) else source_of(given, None)
    return source, options, chosen, {}, loaded(given, options or SessionOptions())


def _ports(
    called: str, model: Model, constants: Mapping[str, Any], outputs: Sequence[str] | None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs that have rows, and the outputs. Raises InvalidArgument for what cannot have any."""
    from ortlite.api.description import output_types
    from ortlite.graph import TensorType

    graph = model.graph
    if unknown := constants.keys() - set(graph.inputs):
        raise InvalidArgument(f"{called} has no input {', '.join(sorted(unknown))}; it has {', '.join(graph.inputs)}")
    if isinstance(outputs, str):
        raise TypeError("outputs is a sequence of names, not a str")
    made = {name for node in graph.nodes for name in node.outputs if name}
    chosen = tuple(outputs) if outputs else graph.outputs
    if unknown := set(chosen) - made - set(graph.outputs):
        listed = ", ".join(graph.outputs)
        raise InvalidArgument(f"{called} has no output {', '.join(sorted(unknown))}; it has {listed}")
    fed = [name for name in graph.inputs if name not in constants and name not in graph.overridable]
    if not fed:
        raise InvalidArgument(f"{called} has no input that could have rows")
    found = output_types(replace(graph, outputs=chosen))
    ports: list[Port] = []
    for kind, name, type_ in [("input", n, graph.types.get(n)) for n in fed] + [
        ("output", n, found[n]) for n in chosen
    ]:
        if type(type_) is not TensorType:
            text = "of unknown type" if type_ is None else f"a {type_.ort}"
            advice = f"give it in constants={{{name!r}: …}}" if kind == "input" else _other(graph, name)
            raise InvalidArgument(f"{called}: {kind} {name!r} is {text}, no tensor with rows: {advice}")
        if type_.shape == () and kind == "input":
            raise InvalidArgument(
                f"{called}: input {name!r} is a single value without rows: give it in constants={{{name!r}: …}}"
            )
        ports.append(Port(name, type_.dtype, type_.shape))
    return tuple(ports[: len(fed)]), tuple(ports[len(fed) :])


def _other(graph: Graph, name: str) -> str:
    """What to ask for in the place of an output that is no tensor."""
    made = next((node for node in graph.nodes if name in node.outputs), None)
    if made is not None and made.op_type == "ZipMap":
        return f"its ZipMap node makes maps of {made.inputs[0]!r}, which outputs=[…] may name, too"
    return "name others in outputs=[…]"


def _size(called: str, inputs: Sequence[Port], asked: int | None) -> tuple[int, bool]:
    """How many rows go into a run, and whether the model takes no other number."""
    fixed = {port.name: port.shape[0] for port in inputs if port.shape and isinstance(port.shape[0], int)}
    if asked is not None and asked < 1:
        raise ValueError(f"batch_size is at least 1, not {asked}")
    if not fixed:
        return asked or ROWS, False
    if len(set(fixed.values())) > 1:
        listed = ", ".join(map(str, inputs))
        raise InvalidArgument(
            f"{called}: the inputs {listed} differ in their first dimension, which is that of the batch: give those "
            "that have no rows in constants={…}"
        )
    size = next(iter(fixed.values()))
    if asked is not None and asked != size:
        raise InvalidArgument(f"{called} is made for {size} rows a run ({', '.join(map(str, inputs))}), not {asked}")
    if size == 0:
        raise InvalidArgument(f"{called} is made for runs of no rows ({', '.join(map(str, inputs))})")
    return size, True


def _placed(error: OrtError, where: str) -> OrtError:
    """The same error, saying where first."""
    placed = copy(error)
    placed.__init__(f"{where}: {error.text}", None, *error.__reduce__()[1][2:])  # type: ignore[misc]
    return placed


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(source: str | bytes | Kept, options: SessionOptions | None) -> tuple[str, tuple[Any, ...]]:
    """The digest of a model, and name, size and time of the files that hold weights beside it."""
    from ortlite.api.source import external_folder
    from ortlite.load.peek import external_places

    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), ()
    if not isinstance(source, str):
        return source.digest, ()
    try:
        places = external_places(Path(source).read_bytes())
    except OrtError:  # a model in ORT format
        places = {}
    folder = Path(external_folder(options) or Path(source).parent)
    found = []
    for path in sorted({folder / place[0] for place in places.values()}):
        status = path.stat() if path.exists() else None
        found.append((str(path), None if status is None else (status.st_size, status.st_mtime_ns)))
    return _digest(source), tuple(found)


def _shared(source: str, digest: str) -> str:
    """A copy of a model whose weights lie in a file of their own, in the user's cache; "" where there is none to make.

    Sessions map that file: all processes of a machine have it in memory once.
    """
    from ortlite.api.pickles import cache_folder
    from ortlite.save import write_apart

    if Path(source).stat().st_size < EMBEDDED:
        return ""
    try:
        folder = cache_folder("models") / f"{digest}.mapped"
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as made:
                write_apart(source, Path(made, "new", "model.onnx"))
                with suppress(OSError):  # another process was first
                    Path(made, "new").rename(folder)
    except (OSError, OrtError):  # no cache, no room in it, or a model in ORT format
        return ""
    return str(folder / "model.onnx")
