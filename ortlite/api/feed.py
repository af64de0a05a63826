"""A program ready to be fed: what its inputs want is read once, what is fed is checked in every run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ortlite import dtypes
from ortlite.api.ortvalue import OrtValue
from ortlite.api.sparse import SparseTensor
from ortlite.api.values import check_dtype, check_shape, library_of, to_inside, to_outside
from ortlite.errors import Fail, OrtError
from ortlite.graph import Graph, OptionalType, SparseType, TensorType, Type
from ortlite.limits import DEFAULTS, Limits
from ortlite.pipeline import Stages
from ortlite.provider import CPU, entered
from ortlite.steps import OnStep
from ortlite.transfer import TransferStats, transfer

__all__ = ["Feed", "Prepared", "feed_of"]

DIFFERENT = 8  # limits of which a session keeps what it found out

Take = Callable[[Any], Any]  # checks one fed value and makes it a run-time value


class Feed(NamedTuple):
    """The inputs of a graph: how each is taken, and the values of those that may be left out."""

    takes: tuple[tuple[str, Take], ...]
    defaults: Mapping[str, Any]

    def exactly(self, feed: Mapping[str, Any]) -> list[Any] | None:
        """The inputs, when `feed` has each of them and nothing else; otherwise None.

        Raises what `values` raises for a value that does not fit.
        """
        if len(feed) != len(self.takes):
            return None
        inputs = []
        for name, take in self.takes:
            if name not in feed:
                return None
            inputs.append(take(feed[name]))
        return inputs

    def check_present(self, feed: Mapping[str, Any]) -> None:
        """Raise ValueError where an input is missing that has no default."""
        missing = [name for name, _ in self.takes if name not in feed and name not in self.defaults]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(feed)}).")

    def values(self, feed: Mapping[str, Any]) -> list[Any]:
        """One run-time value for each input.

        Raises ValueError for a missing one, InvalidArgument for a wrong dtype, rank or dimension, RuntimeError for a
        Python object of the wrong kind.
        """
        self.check_present(feed)
        return [take(feed[name]) if name in feed else self.defaults[name] for name, take in self.takes]


def feed_of(graph: Graph, away: Collection[str] = ()) -> Feed:
    """How the inputs of a graph are fed. `away` are those that go to other providers than the CPU provider."""
    optional = {name: None for name in graph.inputs if isinstance(graph.types.get(name), OptionalType)}
    defaults = optional | {name: _read_only(graph.constants[name]) for name in graph.overridable}
    # what nobody reads, or is only asked whether it is there, may be None, too
    read = {name for node in graph.nodes if node.op_type != "OptionalHasElement" for name in node.reads()}
    needed = read | {*graph.outputs}
    none = {name: None for name in graph.inputs if name not in needed} | defaults
    takes = tuple((name, _take(name, graph.types.get(name), none, name in away)) for name in graph.inputs)
    return Feed(takes, defaults)


def _take(name: str, type_: Type | None, none: Mapping[str, Any], away: bool) -> Take:
    """A function of one fed value. An array that fits is a read-only view; `to_inside` sees to everything else.

    `none` has the values that None stands for, by input. `away`: another library's array stays as it is.
    """

    def slowly(value: Any) -> Any:
        if isinstance(value, OrtValue):
            value = value._data
        if value is None and name in none:
            return none[name]
        if away and type(type_) is TensorType and (library := library_of(value)) is not None:
            found = library.xp.dtype_name(value.dtype)
            check_dtype(dtypes.by_name(found) if found in dtypes.NAMES else None, found, type_)
            check_shape(name, value, type_)
            return value
        return to_inside(name, value, type_)

    if type(type_) is not TensorType or type_.dtype.kind == "S":
        return slowly
    dtype = dtypes.to_numpy(type_.dtype)
    rank = len(type_.shape or ()) or None  # [] is not checked: files say it for "unknown" as well
    fixed = tuple((axis, size) for axis, size in enumerate(type_.shape or ()) if isinstance(size, int))

    def take(value: Any) -> Any:
        if (
            type(value) is not np.ndarray
            or (value.dtype is not dtype and value.dtype != dtype)
            or (rank is not None and value.ndim != rank)
        ):
            return slowly(value)
        for axis, size in fixed:
            if value.shape[axis] != size:
                return slowly(value)
        view = value.view()  # _read_only without its call, and the keyword, which costs as much
        view.setflags(False)  # type: ignore[call-arg]
        return view

    return take


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


class Prepared(NamedTuple):
    """The program of a model, or of a part of it. `input_transfers`: of inputs that go to other providers.

    `program` is what runs: that of the stages, within the limits of all runs; `bounded` has those of runs with others.
    """

    stages: Stages
    feed: Feed
    input_transfers: Mapping[int, TransferStats]
    program: Callable[..., tuple[Any, ...]]
    entered: Callable[[], AbstractContextManager[Any]]  # the contexts of the providers
    bounded: dict[Limits, Callable[..., tuple[Any, ...]]]
    on_step: OnStep | None = None
    sparse: tuple[int, ...] = ()  # outputs that are sparse tensors

    @classmethod
    def of(cls, stages: Stages, on_step: OnStep | None = None, limits: Limits = DEFAULTS) -> Prepared:
        """What a session keeps of a build. `limits` are those of all its runs."""
        places = enumerate(stages.plan.input_providers)
        transfers = {index: TransferStats() for index, place in places if place.name != CPU}
        graph = stages.model.graph
        feed = feed_of(graph, {graph.inputs[index] for index in transfers})
        held = {name for name in graph.inputs if isinstance(graph.types.get(name), SparseType)} | stages.model.sparse
        sparse = tuple(i for i, name in enumerate(graph.outputs) if name in held)
        program: Callable[..., tuple[Any, ...]] = stages.program
        if limits.of_runs:
            from ortlite.guard import Bounded

            program = Bounded(stages.program, limits)
        providers = stages.plan.providers
        contexts = providers[0].context if len(providers) == 1 else partial(entered, providers)
        return cls(stages, feed, transfers, program, contexts, {limits: program}, on_step, sparse)

    def within(self, limits: Limits) -> Callable[..., tuple[Any, ...]]:
        """The program, or one that keeps to limits."""
        if not limits.of_runs:
            return self.stages.program
        found = self.bounded.get(limits)
        if found is None:
            from ortlite.guard import Bounded

            found = Bounded(self.stages.program, limits)
            if len(self.bounded) < DIFFERENT:
                self.bounded[limits] = found
        return found

    @property
    def graph(self) -> Graph:
        """The optimised graph."""
        return self.stages.model.graph

    def compute(
        self, inputs: list[Any], names: tuple[str, ...] | None = None, limits: Limits | None = None
    ) -> list[Any]:
        """The outputs, or those called `names`, as users get them, from inputs that `feed` has taken."""
        outside = to_outside(self.results(inputs, names, limits))
        for index in self.sparse:
            name = self.graph.outputs[index]
            for position in [i for i, wanted in enumerate(names or self.graph.outputs) if wanted == name]:
                outside[position] = SparseTensor.from_dense(outside[position])
        return outside

    def results(
        self, inputs: list[Any], names: tuple[str, ...] | None = None, limits: Limits | None = None
    ) -> tuple[Any, ...]:
        """The outputs, or those called `names`, as the program leaves them, from inputs that `feed` has taken.

        `limits` are those of this run, where it has other ones than all.
        """
        try:
            program = self.program if limits is None else self.within(limits)
            whole = self.stages.program
            with self.entered():
                results: tuple[Any, ...] | None = None
                if self.input_transfers and self.on_step is None and program is whole:
                    results = whole.on_host(inputs)
                if results is None:
                    results = program(self.carried(inputs) if self.input_transfers else inputs, self.on_step)
        except OrtError:
            raise
        except Exception as error:  # what a node raises is an OrtError already
            raise Fail(f"running {self.graph.name!r}: {str(error) or type(error).__name__}") from error
        outputs = self.graph.outputs
        if names is not None and names != outputs:
            results = tuple(results[outputs.index(name)] for name in names)
        return results

    def carried(self, inputs: list[Any]) -> list[Any]:
        """The inputs on the providers where the program wants them."""
        plan, values = self.stages.plan, list(inputs)
        for index, stats in self.input_transfers.items():
            place = plan.input_providers[index]
            try:
                source = library_of(values[index]) or plan.providers[-1]
                if source is place:
                    stats.nbytes, stats.shared = int(values[index].nbytes), True
                values[index] = transfer(values[index], source, place, stats)
            except Exception as error:
                name, problem = self.graph.inputs[index], str(error) or type(error).__name__
                raise Fail(f"input {name!r} cannot go to {place.name}: {problem}") from error
        return values
