"""The model as a plain function of anyone's arrays, which the caller's library differentiates, vmaps and compiles."""

from __future__ import annotations

import os
import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from ortlite import compile as programs
from ortlite import dtypes, load, pipeline, provider
from ortlite.api import pickles
from ortlite.api.session import InferenceSession
from ortlite.api.values import check_shape, plain
from ortlite.errors import InvalidArgument
from ortlite.graph import Graph, Model, OptionalType, TensorType
from ortlite.parameters import gathered, parameters, with_parameters
from ortlite.plan import Body, Call, Const, Plan
from ortlite.provider import CPU, ExecutionProvider
from ortlite.signatures import Budget
from ortlite.transfer import transfer

__all__ = ["function", "lifted"]

Source = str | os.PathLike[str] | bytes | InferenceSession
Params = dict[str, Any]
Block = tuple[int, int]  # where memory begins and ends
DEVICE = frozenset({"device", "device_id"})  # options that arrays answer by themselves


@overload
def function(
    model: Source, *, params: Literal[False] = False, provider: str | tuple[str, dict[str, str]] | None = None
) -> Callable[..., Any]: ...
@overload
def function(
    model: Source, *, params: Literal[True], provider: str | tuple[str, dict[str, str]] | None = None
) -> tuple[Callable[..., Any], Params]: ...
def function(
    model: Source, *, params: bool = False, provider: str | tuple[str, dict[str, str]] | None = None
) -> Callable[..., Any] | tuple[Callable[..., Any], Params]:
    """The model as `fn(*inputs, **inputs)`: inputs by position or by name, in arrays of the caller's library.

    `fn` computes in that library, on the device the arrays live on, and returns its arrays: one where the model has one
    output, else a tuple in graph order; sequences are tuples. No argument is copied: a result may share memory with
    one, but not with the model or with another result. It may be differentiated, vmapped and compiled. NumPy arrays and
    Python numbers may stand among the arrays of another library. Under a tracer, pass inputs that determine shapes as
    NumPy arrays; under torch.compile, which also traces NumPy, as Python numbers.

    With `params` the result is `(fn, params)`, and `fn` takes the parameters first: a dict from the name of every
    floating-point tensor of rank 1 or more that the model and its subgraphs hold to a copy of its value, which an
    optimizer may write to. `provider`, a name or (name, options), says which library the parameters come in, and which
    one computes where all arguments are NumPy arrays (default: NumPy); its options hold for arrays of that library, but
    for the device, which is theirs. Raises what a session raises for a model that is not valid, and InvalidArgument for
    an argument of a wrong dtype, rank or dimension.

    `fn` pickles as sessions do: the path of the model, or its digest in the user's cache.

    Example:
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> fn, params = function(model_bytes(), params=True)
        >>> fn(params, scans()[0][:2]).shape, sorted(params)[0]
        ((2, 10), 'b1')

    """
    source = model.model if isinstance(model, InferenceSession) else load.load(model)
    if params:
        source = gathered(source)
    plain, values = lifted(source, parameters(source.graph) if params else None, provider)
    fn = _Pickled(plain, model, params, provider)
    return (fn, values) if params else fn


class _Pickled:
    """A function and what it was made from: Python's pickles know functions by their names only."""

    def __init__(self, fn: Callable[..., Any], *made_from: Any):
        self.__name__, self.__qualname__, self.__doc__ = fn.__name__, fn.__qualname__, fn.__doc__
        self._fn, self._made_from = fn, made_from

    # By these torch.compile finds the function, whose code is its own: objects it wraps in a function of torch's, whose
    # code Dynamo compiles eight times. They are the class's, lest functools.wraps copies them.
    _torchdynamo_orig_callable = property(lambda self: self._fn)
    _torchdynamo_wrapper_id = property(id)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<ortlite.function {self.__name__}: {self.__doc__}>"

    def __deepcopy__(self, memo: Any) -> _Pickled:
        return self  # as of any function: nothing in it changes

    def __reduce__(self) -> Any:
        model, *options = self._made_from
        if isinstance(model, bytes):
            model = pickles.source_of(None, model)
        elif not isinstance(model, InferenceSession):
            model = pickles.source_of(os.fspath(model), None)
        return _again, (model, *options)


def _again(model: Any, params: bool, provider: Any) -> Callable[..., Any]:
    """The function that was pickled."""
    model = pickles.found(model)
    return function(model, params=True, provider=provider)[0] if params else function(model, provider=provider)


def lifted(
    model: Model, names: Sequence[str] | None, provider: str | tuple[str, dict[str, str]] | None = None
) -> tuple[Callable[..., Any], Params]:
    """A loaded model as a function that takes its constants `names` first, in a dict; and that dict.

    With None the function takes no dict.
    """
    home = _create(provider)
    given = () if names is None else tuple(names)
    fn = _function(_Function(with_parameters(model, given), None if names is None else given, home))
    return fn, {name: home.from_numpy(np.array(model.graph.constants[name])) for name in given}


def _create(given: str | tuple[str, dict[str, str]] | None) -> ExecutionProvider:
    name, options = (given or CPU, {}) if isinstance(given, str | None) else given
    return provider.create(name, options)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model on one provider: `concrete` runs arrays, `traced` tracer values; no node reads the inputs `unread`."""

    concrete: programs.Program
    traced: programs.Program
    unread: frozenset[str]
    memory: _Memory


class _Memory(Budget):
    """A budget for baked values that knows where in memory they, and the constants of the model, lie.

    A block that was freed since is still known: what then comes to lie there is copied without need.
    """

    def __init__(self, where: ExecutionProvider):
        super().__init__()
        self.where = where
        self.blocks: list[Block] = []  # in order, without overlap

    def take(self, values: Mapping[int, Any]) -> dict[int, Any]:
        kept = super().take(values)
        self.add(list(kept.values()))
        return kept

    def add(self, values: Sequence[Any]) -> None:
        """Note where the arrays in `values` lie."""
        merged: list[Block] = []
        for start, end in sorted([*self.blocks, *_blocks(values, self.where)]):
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        self.blocks = merged

    def has(self, address: int) -> bool:
        """Whether an address lies in that memory."""
        index = bisect(self.blocks, (address, sys.maxsize)) - 1
        return index >= 0 and address < self.blocks[index][1]


def _graphs(graph: Graph) -> Iterator[Graph]:
    """A graph and the subgraphs of its nodes."""
    yield graph
    for node in graph.nodes:
        for body in node.subgraphs.values():
            yield from _graphs(body)


def _held(plan: Plan) -> Iterator[Any]:
    """The values that a plan and those of its subgraphs hold."""
    yield from plan.constants.values()
    for step in plan.steps:
        if isinstance(step, Call):
            for argument in (*step.arguments, *(argument for _, argument in step.keywords)):
                if isinstance(argument, Const):
                    yield argument.value
                elif isinstance(argument, Body):
                    yield from _held(argument.plan)


class _Function:
    """What `fn` closes over: the model, and its programs on the providers that came up."""

    def __init__(self, model: Model, params: tuple[str, ...] | None, home: ExecutionProvider):
        self.model, self.params, self.home = model, params, home
        self.inputs = model.graph.inputs[len(params or ()) :]
        self.prepared: dict[ExecutionProvider, _Prepared] = {}

    def on(self, where: ExecutionProvider) -> _Prepared:
        """The programs that compute on `where`, what that cannot run on NumPy."""
        found = self.prepared.get(where)
        if found is None:
            cpu = provider.create(CPU)
            with provider.outside_trace(where):
                chosen = (where,) if where is cpu else (where, cpu)
                memory = _Memory(where)
                shared = programs.Shared(budget=memory, differentiable=True)
                stages = pipeline.build(self.model, chosen, defer=False, outputs_on_device=True, shared=shared)
                constants = [value for graph in _graphs(self.model.graph) for value in graph.constants.values()]
                memory.add([*constants, *_held(stages.plan)])
                plain = programs.compile_plan(stages.plan, specialises=False)
            graph = stages.model.graph
            read = {name for node in graph.nodes for name in node.reads()} | set(graph.outputs)
            prepared = _Prepared(stages.program, plain, frozenset(graph.inputs) - read, memory)
            found = self.prepared.setdefault(where, prepared)
        return found

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """One value for each input of the model, parameters first; None for an optional one left out."""
        values: dict[str, Any] = {}
        if self.params is not None:
            if not args or not isinstance(args[0], Mapping):
                raise TypeError("the first argument is the dict of parameters")
            if lacking := [name for name in self.params if name not in args[0]]:
                raise TypeError(f"parameters {', '.join(lacking)} are missing")
            if unknown := [str(name) for name in args[0] if name not in self.params]:
                known = ", ".join(self.params) or "none"
                raise TypeError(f"the model has no parameters {', '.join(unknown)}; it has {known}")
            values, args = {name: args[0][name] for name in self.params}, args[1:]
        if len(args) > len(self.inputs):
            raise TypeError(f"the model takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), not {len(args)}")
        values |= dict(zip(self.inputs, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.inputs:
                raise TypeError(f"the model has no input {name!r}; it has {', '.join(self.inputs)}")
            if name in self.inputs[: len(args)]:
                raise TypeError(f"input {name!r} is given twice")
            values[name] = value
        graph = self.model.graph
        optional = {n for n in self.inputs if isinstance(graph.types.get(n), OptionalType)} | set(graph.overridable)
        if missing := [name for name in self.inputs if values.get(name) is None and name not in optional]:
            raise TypeError(f"inputs {', '.join(missing)} are missing")
        given = {name: value for name, value in values.items() if value is not None}
        return [given.get(name, graph.constants.get(name)) for name in graph.inputs]


def _function(model: _Function) -> Callable[..., Any]:
    cpu = provider.create(CPU)

    def compute(args: tuple[Any, ...], names: tuple[str, ...], named: tuple[Any, ...]) -> Any:
        values = model.bind(args, dict(zip(names, named, strict=True)))
        owners = [_owners(value) for value in values]
        where = _one(model.model.graph.inputs, owners) or model.home
        if where.name == model.home.name and model.home.options:  # the arrays say on which device
            own = {name: value for name, value in model.home.options.items() if name not in DEVICE}
            where = provider.create(where.name, own | where.options)
        prepared = model.on(where)
        traced = provider.traced(where, tuple(_leaves(values)))
        program = prepared.traced if traced else prepared.concrete
        targets = program.plan.input_providers
        with provider.entered([cpu] if where is cpu else [cpu, where], gradients=True):
            graph = model.model.graph
            given = [
                _enter(name, value, owned, graph.types.get(name), where, None if name in prepared.unread else target)
                for name, value, owned, target in zip(graph.inputs, values, owners, targets, strict=True)
            ]
            results = program(given)
            if traced:
                results = _enter_trace(results, where)
            results = _leave(results, given, where, prepared.memory, [])
        return results[0] if len(results) == 1 else results

    _own_code(compute)
    opaque = provider.traceable(compute)

    def fn(*args: Any, **kwargs: Any) -> Any:
        return opaque(args, tuple(kwargs), tuple(kwargs.values()))  # tracers write code, in which "x:0" is no keyword

    _own_code(fn)
    fn.__name__ = fn.__qualname__ = model.model.graph.name or "model"
    fn.__doc__ = f"{', '.join(model.inputs)} -> {', '.join(model.model.graph.outputs)}"
    return fn


def _own_code(fn: Any) -> None:
    """A code object for this function alone: by it, and not by what they close over, torch.compile tells them apart."""
    fn.__code__ = fn.__code__.replace()


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple | list) else [value]


def _enter_trace(value: Any, where: ExecutionProvider) -> Any:
    """Results as the library's tracer takes them: what was computed outside of it is a copy made inside."""
    if isinstance(value, tuple):
        return tuple(_enter_trace(item, where) for item in value)
    if not hasattr(value, "shape") or isinstance(value, np.ndarray | np.generic) or provider.traced(where, value):
        return value
    return where.copy(value)


def _leave(value: Any, args: Sequence[Any], where: ExecutionProvider, memory: _Memory, seen: list[Block]) -> Any:
    """Results as arrays (NumPy makes numbers of those without axes), copied where they lie in the memory of the model.

    So are those that share memory with another one (`seen` has where the others lie), but for views of an argument.
    """
    if isinstance(value, tuple):
        return tuple(_leave(item, args, where, memory, seen) for item in value)
    if isinstance(value, np.generic):
        return np.asarray(value)
    if not hasattr(value, "shape"):
        return value
    home = _home(value, where)
    block = home.memory(value)
    if block is not None:
        again = _overlaps(block, seen) and not _overlaps(block, _blocks(args, where))
        if again or memory.has(block[0]) or (isinstance(value, np.ndarray) and not value.flags.writeable):
            value = home.copy(value)
            block = home.memory(value) or block
        seen.append(block)
    return value


def _home(array: Any, where: ExecutionProvider) -> ExecutionProvider:
    return provider.create(CPU) if isinstance(array, np.ndarray) else where


def _blocks(values: Sequence[Any], where: ExecutionProvider) -> list[Block]:
    """Where the arrays in `values`, which are NumPy's or `where`'s, lie."""
    arrays = [leaf for leaf in _leaves(values) if hasattr(leaf, "shape") and not isinstance(leaf, np.generic)]
    return [block for array in arrays if (block := _home(array, where).memory(array)) is not None]


def _overlaps(block: Block, others: Sequence[Block]) -> bool:
    return any(start < block[1] and block[0] < end for start, end in others)


def _owners(value: Any) -> dict[int, ExecutionProvider]:
    """The provider of every array in a value, by the array's id. Not of NumPy's, which go anywhere."""
    arrays = [x for x in _leaves(value) if hasattr(x, "shape") and not isinstance(x, np.ndarray | np.generic)]
    return {id(x): found for x in arrays if (found := provider.owner(x)) is not None and found.name != CPU}


def _one(names: Sequence[str], owners: Sequence[dict[int, ExecutionProvider]]) -> ExecutionProvider | None:
    """The provider all arrays belong to. Raises InvalidArgument where there are several."""
    first: dict[ExecutionProvider, str] = {}
    for name, found in zip(names, owners, strict=True):
        for one in found.values():
            first.setdefault(one, name)
    if len(first) > 1:
        listed = ", ".join(f"{name!r} is on {one!r}" for one, name in first.items())
        raise InvalidArgument(f"all arrays must be of one library, on one device: {listed}")
    return next(iter(first), None)


def _enter(
    name: str,
    value: Any,
    owned: Mapping[int, ExecutionProvider],
    type_: Any,
    where: ExecutionProvider,
    target: ExecutionProvider | None,
) -> Any:
    """An argument as the program takes it: of the declared dtype, on `target` if anywhere. Raises InvalidArgument.

    `owned` has the ids of the arrays in it that are `where`'s.
    """
    if isinstance(type_, OptionalType):
        type_ = type_.element
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, tuple | list) and not isinstance(type_, TensorType):
        return tuple(_enter(name, item, owned, getattr(type_, "element", None), where, target) for item in value)
    mine = id(value) in owned
    source = where if mine else provider.create(CPU)
    if not mine:
        value = _numpy(name, value, type_)
    if isinstance(type_, TensorType):
        value = _of_type(name, value, type_, source)
        check_shape(name, value, type_)
    if target is None:
        return value
    if not mine and target.immutable and isinstance(value, np.ndarray):  # its owner may write to it
        value = value.copy()
    try:
        with (
            nullcontext() if mine or target is source else provider.outside_trace(target)
        ):  # what is known beside tracers stays known
            return transfer(value, source, target)
    except ValueError as error:
        raise InvalidArgument(f"input {name!r}: {error}") from error


def _numpy(name: str, value: Any, type_: Any) -> np.ndarray:
    """A NumPy array as it is; Python numbers, and lists of them, in the declared dtype. Raises InvalidArgument."""
    if type(value) is not np.ndarray and isinstance(value, list | tuple | np.ndarray):
        value = plain(name, value)
    if isinstance(value, np.ndarray | np.generic) or not isinstance(type_, TensorType):
        return np.asarray(value)
    array = np.asarray(value)
    order = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}  # what Python, too, makes of each other
    if array.dtype.kind in "OUS":
        fits = type_.dtype.kind == "S"
    else:
        fits = not array.size or order[array.dtype.kind] <= order.get(type_.dtype.kind, -1)
    if not fits:
        raise InvalidArgument(f"input {name!r} is {type_.ort}, not {type(value).__name__} {value!r}")
    return array.astype(dtypes.to_numpy(type_.dtype), copy=False)


def _of_type(name: str, value: Any, declared: TensorType, source: ExecutionProvider) -> Any:
    """The value in the declared dtype: a narrower one of the same kind is widened, any other refused."""
    native = value.dtype
    actual = dtypes.of_numpy(native) if source.name == CPU else dtypes.by_name(source.xp.dtype_name(native))
    if actual is declared.dtype:
        return value
    if actual.kind != declared.dtype.kind or actual.bits > declared.dtype.bits:
        raise InvalidArgument(f"input {name!r} is {declared.ort}, not tensor({actual.ort})")
    return source.xp.astype(value, source.xp.dtype(declared.dtype))
