"""The ExecutionProvider contract, and the discovery of providers.

A provider is one array library seen through onnxruntime's eyes. First-party providers live in `backends/`
and are found by exactly the mechanism a third party's would be: an entry point in the group
`ortlite.providers` whose name is the provider's name.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ortlite.dtypes import DType
from ortlite.namespace import Namespace

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ortlite.ops.registry import Kernel

__all__ = [
    "CPU", "ENTRY_POINTS", "Compiler", "Contexts", "ExecutionProvider", "Recording", "Tracer", "available", "create",
    "entered", "known", "outside_trace", "owner", "takes", "traceable", "traced", "unshared", "usable",
]  # fmt: skip

CPU = "CPUExecutionProvider"
ENTRY_POINTS = "ortlite.providers"


class Tracer:
    """How to deal with a library that traces functions: it calls them with arrays that have no values yet."""

    def traced(self, array: Any) -> bool:
        """Whether `array` has no values yet."""
        raise TypeError(f"{type(self).__name__} must define traced")

    def outside_trace(self) -> AbstractContextManager[Any]:
        """Entered to make arrays that outlive the run, while the library may be tracing."""
        return nullcontext()

    def traceable(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function of arrays known to the tracer, where that reads Python code instead of running it.

        Called when the library has been imported already.
        """
        return fn


class Compiler:
    """A library's compiler, which gets neighbouring steps of a specialised program as one function.

    `freezes`: arrays that are the same in every call, the model's weights, become part of what is compiled: those are
    given to `frozen`. Else they are arguments like any others. `races`: what it compiles may take longer than the
    library's own calls, so that both are tried where the provider records. `stands_in`: the library's own calls are
    compiled for their shapes one by one, or take longer than NumPy's, and its arrays lie in the host's memory: where
    nothing is compiled for a signature, and where it is fastest in a race, the CPU provider answers. `eager`: without a
    stand-in the library's own calls answer at any shapes.
    """

    freezes: ClassVar[bool] = False
    stands_in: bool = False
    eager: ClassVar[bool] = False
    races: bool = False

    def takes(self, op_type: str) -> bool:
        """Whether an operator may be part of a region; asked of those that compilers can do at all."""
        return True

    def within(self, xp: Namespace) -> Namespace:
        """What the kernels of a region compute in, where that is not the provider's namespace."""
        return xp

    def frozen(self, fn: Callable[..., Any], constants: Mapping[int, Any]) -> Callable[..., Any]:
        """Compile a pure function of arrays, of which those of `constants`, by position, are known, for the others."""
        raise TypeError(f"{type(self).__name__} must define frozen")

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a pure function of arrays, which returns a tuple of them."""
        raise TypeError(f"{type(self).__name__} must define compile")

    def eval_shape(self, fn: Callable[..., Any], *arrays: Any) -> bool:
        """Call `fn` with arrays that have shapes and dtypes, but no values; False where the library has none such."""
        return False


class Recording(NamedTuple):
    """What a kernel does at one signature, as code.

    `lines` are pairs of a variable ("" for none) and an expression, or a statement; `scope` has what their names stand
    for. `results` names the results, None where the kernel leaves the case to another one, and `values` are those of
    the recorded run. `layouts`: positions of arguments, and the strides that they must have for the lines to be right,
    None where any will do; `strides` is how the library's arrays are asked for them. `homes`: for each result the
    variable of the array, made empty, in whose memory it lies, "" where that is another's.
    """

    lines: tuple[tuple[str, str], ...]
    scope: Mapping[str, Any]
    results: tuple[str, ...] | None
    values: tuple[Any, ...]
    layouts: tuple[tuple[int, tuple[int | None, ...]], ...]
    strides: str = "strides"
    homes: tuple[str, ...] = ()


class ExecutionProvider:
    """One array library. A subclass sets the class attributes and `xp`; the rest has sensible defaults.

    `name` is what users write in `providers=[...]`; `library` the module that must be installed, and
    `storage` the logical dtypes the library can hold. `widen` maps those it can hold but not compute in to
    the dtype it computes in instead (the plan inserts the casts). `packages` are the top-level packages that the
    library's array types are defined in (default: `library` alone), `option_names` the options it reads (None: not
    told). `immutable` says that nobody can write to the library's arrays: a function copies NumPy's before they become
    some, for their owner can. Kernels are recorded (`recorder`) for arrays of up to `recorded_elements`: for larger
    ones the Python around the calls does not matter.

    `rank` says where `get_available_providers()` lists it: the smallest first, of equal ones by name, the CPU provider
    last whatever it says. Devices have 10 to 49, libraries that compute on the CPU 50 to 99; 100 says that nobody has
    measured it. None is for a provider that tests something and is no choice for running a model: it is listed by
    `get_all_providers()` alone and used by who names it. The order of a session's `providers` is what counts there.

    Example:
        >>> import numpy
        >>> from ortlite import namespace
        >>> class MyExecutionProvider(ExecutionProvider):
        ...     name, library, storage = "MyExecutionProvider", "numpy", frozenset({"float32"})
        ...     xp = namespace.build(numpy, {"float32": numpy.float32}, primitives={})
        >>> mine = MyExecutionProvider()
        >>> mine.xp.erf(mine.from_numpy(numpy.float32([0, 0.5]))).dtype
        dtype('float32')

    """

    name: ClassVar[str]
    library: ClassVar[str]
    storage: ClassVar[frozenset[str]]
    widen: ClassVar[Mapping[str, str]] = {}
    packages: ClassVar[tuple[str, ...]] = ()
    option_names: ClassVar[frozenset[str] | None] = None
    immutable: ClassVar[bool] = False
    rank: ClassVar[int | None] = 100
    tracer: ClassVar[Tracer | None] = None
    recorded_elements: ClassVar[int] = 1 << 22

    def __init__(self, options: Mapping[str, str] | None = None):
        self.options = dict(options or {})
        if self.option_names is not None and (unknown := self.options.keys() - self.option_names):
            known = ", ".join(sorted(self.option_names))
            text = f"{self.name} has no option {', '.join(sorted(unknown))}, which is ignored; it has {known}"
            warnings.warn(text, UserWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options or ''})"

    @classmethod
    def is_available(cls) -> bool:
        """Whether the library is installed and usable here. Must not import it."""
        return importlib.util.find_spec(cls.library) is not None

    @cached_property
    def xp(self) -> Namespace:
        """The namespace the kernels get; built by `ortlite.namespace.build`. A subclass must define it."""
        raise TypeError(f"{type(self).__name__} must define xp")

    @property
    def compiler(self) -> Compiler | None:
        """What compiles neighbouring steps; None where nothing does."""
        return None

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        """(domain, op_type, since) -> a kernel of the same signature that this library does better.

        Where it returns NotImplemented, the kernel that it replaces runs with the same arguments.
        """
        return {}

    @property
    def rewrites(self) -> frozenset[str]:
        """The names of rewrites (`optimize.table.ASKED`) that make operators which no file has, but this provider.

        Asked of a session's first provider.
        """
        return frozenset()

    @property
    def recorder(self) -> Callable[..., Recording | None] | None:
        """`recorder(fn, xp, args, keywords, names, prefix)`: what `fn(xp, *args, **keywords)` does, as code.

        `names` has the variables that hold arguments, by position; the other arguments are constants. Names in the
        code begin with `prefix`. None where it cannot be told from the signature. The property is None where nothing
        records.
        """
        return None

    @property
    def compiles_ahead(self) -> bool:
        """Whether there is anything for `compile_ahead` to do."""
        return False

    def compile_ahead(self) -> tuple[int, Path | None]:
        """Compile what sessions would compile when they need it: for how many operators, and where it is kept."""
        return 0, None

    def supports(self, kernel: Kernel, dtypes: Sequence[DType | None]) -> str | None:
        """None when this provider can run `kernel` on values of `dtypes`, else the reason why not."""
        if kernel.python_objects:
            return f"{kernel.op_type} works on Python objects, which only NumPy holds"
        if missing := [d.name for d in dtypes if d is not None and d.name not in self.storage]:
            return f"{self.library} has no {', '.join(sorted(set(missing)))}"
        needs = kernel.needs(dtypes) if callable(kernel.needs) else kernel.needs
        if lacking := [name for name in needs if not hasattr(self.xp, name)]:
            return f"{self.library} has no {', '.join(lacking)}"
        return None

    def defers(self, kernel: Kernel, dtypes: Sequence[DType | None]) -> str | None:
        """Why a later provider had better run what this one `supports` too; None where nothing speaks for that.

        Asked by sessions that may fall back. A function of the caller's arrays stays in their library.
        """
        return None

    @classmethod
    def holds(cls, kind: type) -> bool:
        """Whether `kind` is a type of this library's arrays. Asked once a type."""
        packages = cls.packages or (cls.library,)
        return any(base.__module__.partition(".")[0] in packages for base in kind.__mro__[:-1])

    @classmethod
    def options_of(cls, array: Any) -> dict[str, str]:
        """The options of the provider that computes where `array`, one of this library's, lives."""
        return {}

    def from_numpy(self, array: np.ndarray) -> Any:
        """A NumPy array as an array of this library, on its device; shares memory where it can."""
        return self.xp.from_dlpack(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        """An array of this library as a NumPy array; shares memory where it can."""
        import numpy as np

        return np.from_dlpack(array)

    def from_dlpack(self, array: Any) -> Any:
        """An array of a third library as one of this one, without NumPy in between.

        Raises BufferError, TypeError, ValueError or RuntimeError where the two do not understand each other.
        """
        return self.xp.from_dlpack(array)

    def from_pointer(self, pointer: int, shape: Sequence[int], dtype: DType, keep: Any = None) -> Any:
        """An array over memory of this provider's device, in C order from an address on.

        Who owns the memory keeps it for as long; `keep` is held by the array. Raises TypeError where the library takes
        no addresses.
        """
        raise TypeError(f"{self.name} takes no addresses: hand over arrays, by DLPack")

    def write(self, array: Any, values: Any) -> None:
        """Overwrite the memory of an array with `values`, one of this library and of the same shape and dtype.

        Raises TypeError where nobody can write to the library's arrays.
        """
        if self.immutable:
            raise TypeError(f"nobody can write to arrays of {self.library}")
        array[...] = values

    def synchronize(self) -> None:
        """Wait for what the device is still computing, on whatever stream: who reads memory by its address cannot."""

    def settle(self, arrays: Sequence[Any]) -> None:
        """Have done what the library has put off of these arrays: they outlive the run, and other threads read them.

        There may be others than this library's among them.
        """

    def pointer(self, array: Any) -> int | None:
        """The address of an array's first element; None where the library does not tell."""
        import numpy as np

        try:
            return int(np.from_dlpack(array).__array_interface__["data"][0])
        except (BufferError, TypeError, ValueError, RuntimeError, AttributeError):
            return None

    def memory(self, array: Any) -> tuple[int, int] | None:
        """Where the block of memory begins and ends that `array` shares with its views.

        None where it cannot be written to, where it has none (tracer values), and where the library does not tell.
        What a function returns is copied where it lies in the memory of the model.
        """
        import numpy as np

        start = None if self.immutable else self.pointer(array)
        if start is None:
            return None
        try:
            return start, start + int(array.nbytes)
        except AttributeError:  # the standard has no such attribute
            return np.lib.array_utils.byte_bounds(np.from_dlpack(array))

    @classmethod
    def unshared(cls, array: Any) -> bool:
        """Whether the library took the memory of what a NumPy array from `to_numpy` has as its base, for that alone."""
        return False

    def copy(self, array: Any) -> Any:
        """An equal array in memory of its own; gradients flow through, and a tracer sees it."""
        return self.xp.asarray(array, copy=True)

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        """Entered around every run: error state, current device; whether the library records for `gradients`."""
        return nullcontext()


@cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    for point in entry_points(group=ENTRY_POINTS):
        used, other = found.get(point.name, point), point
        if used.value != other.value:
            if other.dist is not None and other.dist.name == "ortlite":  # nobody takes our providers' names
                used, other = other, used
            warnings.warn(
                f"Two plug-ins call themselves {point.name!r}: {used.value} is used, not {other.value}.",
                RuntimeWarning,
                stacklevel=3,
            )
        found[point.name] = used
    return found


@cache
def _provider_class(name: str) -> type[ExecutionProvider] | None:
    """The provider class of that name, or None when it is unknown, broken (warns) or not usable here."""
    if name == CPU:  # always there, and nobody takes its name: a session that asks for no other looks for none
        from ortlite_numpy import CPUExecutionProvider

        return CPUExecutionProvider
    point = _entry_points().get(name)
    if point is None:
        return None
    try:
        cls: type[ExecutionProvider] = point.load()
        _check_class(cls, name)
        return cls if cls.is_available() else None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a broken plug-in must not take the others down)
        warnings.warn(f"Provider {name!r} ({point.value}) is skipped: {error!r}", RuntimeWarning, stacklevel=3)
        return None


def _check_class(cls: Any, name: str) -> None:
    """Raise TypeError for what is no provider class of that name, nor stands for one as ortlite_cuda does."""
    if not callable(cls) or (isinstance(cls, type) and not issubclass(cls, ExecutionProvider)):
        raise TypeError(f"{cls!r} is no subclass of ortlite.provider.ExecutionProvider")
    if lacking := [attribute for attribute in ("name", "library", "storage") if not hasattr(cls, attribute)]:
        raise TypeError(f"it must set {', '.join(lacking)}")
    if cls.name != name:
        raise TypeError(f"it calls itself {cls.name!r}, and its entry point {name!r}")
    if (rank := getattr(cls, "rank", None)) is not None and (not isinstance(rank, int) or isinstance(rank, bool)):
        raise TypeError(f"its rank is an int or None, not {rank!r}")


def known() -> list[str]:
    """Names of the providers that are installed, usable here or not."""
    return sorted({*_entry_points(), CPU})


def usable() -> list[str]:
    """Names of the providers that can be used on this machine by who names them: those `available`, those for tests."""
    found = {name: cls.rank for name in known() if name != CPU and (cls := _provider_class(name)) is not None}
    return [*sorted(found, key=lambda name: (found[name] is None, found[name], name)), CPU]


def available() -> list[str]:
    """Names of the providers for running a model on this machine, best first by their `rank`, the CPU provider last."""
    return [name for name in usable() if name == CPU or getattr(_provider_class(name), "rank", None) is not None]


@cache
def _shared(name: str, options: tuple[tuple[str, str], ...]) -> ExecutionProvider:
    cls = _provider_class(name)
    if cls is None:
        raise RuntimeError(f"Unknown Provider Type: {name}")
    return cls(dict(options))


def create(name: str, options: Mapping[str, str] | None = None) -> ExecutionProvider:
    """The provider of that name with those options (one instance is shared). Raises RuntimeError."""
    return _shared(name, tuple(sorted((options or {}).items())))


def takes(name: str, option: str) -> bool:
    """Whether the provider of that name lists an option among those that it knows."""
    cls = _provider_class(name)
    return option in (getattr(cls, "option_names", None) or ())


@cache
def _holder(kind: type) -> type[ExecutionProvider] | None:
    classes = (_provider_class(name) for name in (CPU, *usable()[:-1]))
    return next((cls for cls in classes if cls is not None and cls.holds(kind)), None)


def owner(array: Any) -> ExecutionProvider | None:
    """The provider that computes in `array`'s library on `array`'s device, or None when nobody knows its type."""
    kind: Any = type(array)
    cls = _holder(kind)
    return None if cls is None else create(cls.name, cls.options_of(array))


def unshared(array: Any) -> bool:
    """Whether the base of a NumPy array may be given away with it; see `ExecutionProvider.unshared`."""
    kind: Any = type(array)
    cls = _holder(kind)
    return cls is not None and cls.unshared(array)


def traced(provider: ExecutionProvider, value: Any) -> bool:
    """Whether an array of the provider's library, or one in a sequence, has no values: the library is tracing."""
    if provider.tracer is None:
        return False
    return any(traced(provider, item) for item in value) if isinstance(value, tuple) else provider.tracer.traced(value)


def outside_trace(provider: ExecutionProvider) -> AbstractContextManager[Any]:
    """Entered to compute beside what the provider's library may be tracing."""
    return nullcontext() if provider.tracer is None else provider.tracer.outside_trace()


def traceable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays known to the tracers of the libraries that are imported by now."""
    for name in usable():
        cls = _provider_class(name)
        if cls is not None and cls.library in sys.modules:
            fn = fn if cls.tracer is None else cls.tracer.traceable(fn)
    return fn


class Contexts:
    """Several contexts, without what ExitStack takes."""

    __slots__ = ("contexts",)

    def __init__(self, contexts: Sequence[AbstractContextManager[Any]]):
        self.contexts = contexts

    def __enter__(self) -> None:
        for index, context in enumerate(self.contexts):
            try:
                context.__enter__()
            except BaseException as error:
                self.leave(index, type(error), error, error.__traceback__)
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(len(self.contexts), kind, error, trace)

    def leave(self, count: int, *error: Any) -> None:
        """Leave the first `count` contexts, the last of them first, each of them whatever the others do."""
        if count:
            try:
                self.contexts[count - 1].__exit__(*error)
            finally:
                self.leave(count - 1, *error)


def entered(providers: Sequence[ExecutionProvider], *, gradients: bool = False) -> AbstractContextManager[Any]:
    """The contexts of several providers, entered around a run; see `ExecutionProvider.context`."""
    if len(providers) == 1:
        return providers[0].context(gradients=gradients)
    return Contexts([provider.context(gradients=gradients) for provider in providers])
