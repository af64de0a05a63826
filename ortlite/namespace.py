"""What `xp` guarantees a kernel: the Array API standard and a short list of primitives.

`xp` has every public name of its library's Array API namespace (2024.12 or later, extensions `linalg` and
`fft` where the library has them), and:

- `xp.dtype(d)`: the library's dtype for a logical one (a DType or its name); raises TypeError when it has none
- `xp.astype(x, dtype)` does not copy what has the dtype already: no kernel changes an array
- `xp.dtype_name(native)`: the logical name of a library dtype, such as "float32" or "int4"
- the primitives of `ortlite.primitives`, each a pure function with a default body in the standard alone;
  a provider replaces those for which its library has something faster. A replacement that cannot do a case returns
  NotImplemented, and the default body runs with the same arguments.

Names that some libraries lack and no default body can give (`OPTIONAL`) must be declared by a kernel with
`@op(..., needs=...)`; where they are missing, the node goes to the next provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import ModuleType
from typing import Any, TypeVar

from ortlite.dtypes import DType, by_name
from ortlite.primitives import DEFAULTS
from ortlite.primitives.base import Namespace

__all__ = ["OPTIONAL", "Namespace", "build", "complete", "or_default"]

F = TypeVar("F", bound=Callable[..., Any])

OPTIONAL = {
    "bit_view": "bit_view(x, dtype): the same bytes seen as another dtype of the same width",
    "linalg": "the standard's linear algebra extension",
    "fft": "the standard's Fourier extension",
    "float64": "the standard's dtype, in which some kernels compute whatever they are given",
}


def _astype(astype: Callable[..., Any], x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype else astype(x, dtype)


def or_default(fn: Callable[..., Any], default: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, and where it returns NotImplemented, `default` with the same arguments."""

    @wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        result = fn(*args, **keywords)
        return default(*args, **keywords) if result is NotImplemented else result

    return call


def complete(fn: F) -> F:
    """Mark a replacement that never returns NotImplemented: calling it costs 0.1 µs less."""
    fn.complete = True  # type: ignore[attr-defined]
    return fn


def build(
    library: ModuleType,
    dtypes: Mapping[str, Any],
    primitives: Mapping[str, Callable[..., Any]],
    names: Mapping[str, Any] | None = None,
) -> Namespace:
    """Make the namespace of one library.

    `library` is its Array API module, `dtypes` maps logical names to native dtypes, `primitives` are
    replacements with the signature of the default (`fn(xp, ...)`), which may leave cases to it by returning
    NotImplemented, and `names` replaces plain names. Raises TypeError for a replacement of what is no primitive.

    Example:
        >>> import numpy
        >>> xp = build(numpy, {"float32": numpy.float32, "int64": numpy.int64}, primitives={})
        >>> xp.dtype_name(xp.dtype("float32")), xp.top_k(xp.asarray([1.0, 3.0, 2.0]), 2, -1, True, True)[1].tolist()
        ('float32', [1, 2])

    """
    if unknown := primitives.keys() - DEFAULTS.keys() - OPTIONAL.keys():
        raise TypeError(f"no primitives: {', '.join(sorted(unknown))}; there are {', '.join(sorted(DEFAULTS))}")
    public = {name: getattr(library, name) for name in dir(library) if not name.startswith("_")}
    # extensions may be loaded on demand, out of sight of dir()
    public |= {name: getattr(library, name) for name in ("linalg", "fft") if hasattr(library, name)}
    public["astype"] = partial(_astype, library.astype)
    xp = Namespace(library.__name__, {**public, **(names or {}), "defaults": DEFAULTS})
    for name, fn in (DEFAULTS | dict(primitives)).items():
        whole = fn is DEFAULTS.get(name, fn) or getattr(fn, "complete", False)
        xp.__dict__[name] = partial(fn if whole else or_default(fn, DEFAULTS[name]), xp)

    # JAX's `jnp.float32`, by which kernels call a dtype, is not the dtype of its arrays
    called = {getattr(library, name): name for name in dtypes if hasattr(library, name)}
    by_native = called | {native: name for name, native in dtypes.items()}

    def dtype(logical: DType | str) -> Any:
        name = by_name(logical).name if isinstance(logical, str) else logical.name
        try:
            return dtypes[name]
        except KeyError:
            raise TypeError(f"{library.__name__} has no dtype for {name}") from None

    def dtype_name(native: Any) -> str:
        return by_native[native]

    xp.__dict__.update(dtype=dtype, dtype_name=dtype_name)
    return xp
