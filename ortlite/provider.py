"""The ExecutionProvider contract, the discovery of providers, and how values cross between two of them.

A provider is one array library seen through onnxruntime's eyes. First-party providers live in `backends/`
and are found by exactly the mechanism a third party's would be: an entry point in the group
`ortlite.providers` whose name is the provider's name.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ortlite.dtypes import DType, to_numpy
from ortlite.namespace import Namespace

if TYPE_CHECKING:
    import numpy as np

    from ortlite.ops.registry import Kernel

__all__ = ["CPU", "ENTRY_POINTS", "ExecutionProvider", "available", "create", "transfer"]

CPU = "CPUExecutionProvider"
ENTRY_POINTS = "ortlite.providers"


class ExecutionProvider:
    """One array library. A subclass sets the class attributes and `xp`; the rest has sensible defaults.

    `name` is what users write in `providers=[...]`; `library` the module that must be installed, and
    `storage` the logical dtypes the library can hold. `widen` maps those it can hold but not compute in to
    the dtype it computes in instead (the plan inserts the casts).
    """

    name: ClassVar[str]
    library: ClassVar[str]
    storage: ClassVar[frozenset[str]]
    widen: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Mapping[str, str] | None = None):
        self.options = dict(options or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options or ''})"

    @classmethod
    def is_available(cls) -> bool:
        """Whether the library is installed and usable here. Must not import it."""
        return importlib.util.find_spec(cls.library) is not None

    @cached_property
    def xp(self) -> Namespace:
        """The namespace the kernels get; built by `ortlite.namespace.build`."""
        raise TypeError(f"{type(self).__name__} must define xp")

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        """(domain, op_type, since) -> a kernel of the same signature that this library does better."""
        return {}

    def supports(self, kernel: Kernel, dtypes: Sequence[DType | None]) -> str | None:
        """None when this provider can run `kernel` on values of `dtypes`, else the reason why not."""
        if kernel.host:
            return f"{kernel.op_type} works on Python objects, which only NumPy holds"
        if missing := [d.name for d in dtypes if d is not None and d.name not in self.storage]:
            return f"{self.library} has no {', '.join(sorted(set(missing)))}"
        if lacking := [name for name in kernel.needs if not hasattr(self.xp, name)]:
            return f"{self.library} has no {', '.join(lacking)}"
        return None

    def from_numpy(self, array: np.ndarray) -> Any:
        """A NumPy array as an array of this library, on its device; shares memory where it can."""
        return self.xp.from_dlpack(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        """An array of this library as a NumPy array; shares memory where it can."""
        import numpy as np

        return np.from_dlpack(array)

    def context(self) -> AbstractContextManager[Any]:
        """Entered around every run: error state, gradient mode, current device."""
        return nullcontext()

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Hand a pure function of arrays to the library's compiler, when it has one."""
        return fn


@cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found and found[point.name].value != point.value:
            warnings.warn(
                f"Two plug-ins call themselves {point.name!r}: {found[point.name].value} is used, not {point.value}.",
                RuntimeWarning,
                stacklevel=3,
            )
        found.setdefault(point.name, point)
    return found


@cache
def _provider_class(name: str) -> type[ExecutionProvider] | None:
    """The provider class of that name, or None when it is unknown, broken (warns) or not usable here."""
    point = _entry_points().get(name)
    if point is None:
        return None
    try:
        cls: type[ExecutionProvider] = point.load()
        return cls if cls.is_available() else None
    except Exception as error:  # noqa: BLE001  (a broken plug-in must not take the others down)
        warnings.warn(f"Provider {name!r} ({point.value}) is skipped: {error!r}", RuntimeWarning, stacklevel=3)
        return None


def available() -> list[str]:
    """Names of the providers that are installed and usable on this machine, the CPU provider last."""
    names = sorted(name for name in _entry_points() if name != CPU and _provider_class(name) is not None)
    return [*names, CPU]


@cache
def _shared(name: str, options: tuple[tuple[str, str], ...]) -> ExecutionProvider:
    cls = _provider_class(name)
    if cls is None:
        raise RuntimeError(f"Unknown Provider Type: {name}")
    return cls(dict(options))


def create(name: str, options: Mapping[str, str] | None = None) -> ExecutionProvider:
    """The provider of that name with those options (one instance is shared). Raises RuntimeError."""
    return _shared(name, tuple(sorted((options or {}).items())))


def transfer(value: Any, source: ExecutionProvider, target: ExecutionProvider) -> Any:
    """Move a value between two providers: through DLPack where both agree, else through NumPy.

    Sequences and optionals are moved element by element; maps and strings stay on the host.
    """
    if source is target or value is None or isinstance(value, dict):
        return value
    if isinstance(value, tuple):
        return tuple(transfer(item, source, target) for item in value)
    if target.name == CPU:
        return source.to_numpy(value)
    if source.name == CPU:
        return target.from_numpy(value)
    try:
        return target.xp.from_dlpack(value)
    except (BufferError, TypeError, ValueError, RuntimeError):
        return target.from_numpy(source.to_numpy(value))


def empty(shape: Sequence[int], dtype: DType) -> np.ndarray:
    """A NumPy array to be filled; its storage dtype is ml_dtypes' where NumPy has none."""
    import numpy as np

    return np.empty(tuple(shape), to_numpy(dtype))
