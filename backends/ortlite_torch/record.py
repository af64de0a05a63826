"""What a kernel does at one signature, written down: the calls of torch that are left when all else is decided.

A kernel branches on shapes, dtypes and layouts, never on values. So it is run once under a mode that sees every call of
torch and notes it. A call that gives a value to Python (`float(x)`), or whose result has a shape that is a matter of
values, ends the recording, and the kernel is called as before. What it decided by the layout of an argument holds for
arguments of that layout.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from math import isfinite
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from ortlite.derived import lasting
from ortlite.provider import Recording

__all__ = ["opaque", "recorded", "recording", "unseen"]

F = TypeVar("F", bound=Callable[..., Any])

Tensor = torch.Tensor
LINES = 512  # of a recording: more are better off in a loop
SMALL = 1 << 14  # bytes of a result of constants that may become one


def _getters(*names: str) -> set[Any]:
    return {getattr(Tensor, name).__get__ for name in names if hasattr(getattr(Tensor, name, None), "__get__")}


# They ask for what is the same at every run of a signature,
ASKED = _getters(
    "shape", "dtype", "device", "ndim", "is_cpu", "is_cuda", "is_meta", "is_sparse", "is_quantized", "is_mkldnn",
    "is_nested", "requires_grad", "is_leaf", "layout", "itemsize", "nbytes",
) | {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.element_size, Tensor.__len__, Tensor.is_complex,
    Tensor.is_floating_point, Tensor.is_signed, torch.is_complex, torch.is_floating_point, torch.numel,
    torch.result_type, torch.promote_types, torch.can_cast, torch.broadcast_shapes,
}  # fmt: skip
# of a layout,
LAYOUT = {Tensor.stride, Tensor.is_contiguous, Tensor.storage_offset, Tensor.view, Tensor.as_strided, torch.as_strided}
ASKED |= {Tensor.stride, Tensor.is_contiguous, Tensor.storage_offset}
# for nothing where the shape or the dtype is that already,
SAME = {Tensor.to, Tensor.type, Tensor.expand, Tensor.reshape, Tensor.broadcast_to, torch.reshape, torch.broadcast_to}
# for something that is a matter of values.
VALUES = set(
    "nonzero argwhere unique unique_consecutive unique_dim masked_select bincount histc item tolist numpy equal "
    "allclose is_nonzero data_ptr untyped_storage storage rand randn randint randperm rand_like randn_like "
    "randint_like bernoulli multinomial normal dropout poisson".split()
)
NAMED = {Tensor.T.__get__: "T", Tensor.mT.__get__: "mT"}


class Ended(Exception):
    """The kernel does what a recording cannot hold."""


class _Current(threading.local):
    tape: Tape | None = None


_current = _Current()


def recording() -> bool:
    """Whether this thread is recording a kernel."""
    return _current.tape is not None


def opaque(fn: F) -> F:
    """A function of tensors that looks at values, in a recording a line as it is. It returns new tensors or nothing,
    or NotImplemented where it leaves all calls of a signature to others.
    """

    @wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        tape = _current.tape
        return fn(*args, **keywords) if tape is None else tape.opaque(fn, args, keywords)

    return call  # type: ignore[return-value]


class _Mode(TorchFunctionMode):  # type: ignore[misc]  # what torch is made of is not looked into
    """Notes the calls of torch in this thread."""

    def __init__(self, tape: Tape):
        super().__init__()
        self.tape = tape

    def __torch_function__(self, fn: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.tape.call(fn, args, kwargs or {})


class Tape:
    """The lines of one recording, and the objects that their names stand for."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.lines: list[tuple[str, str]] = []  # (target or "", expression or statement)
        self.scope: dict[str, Any] = {}
        self.names: dict[int, str] = {}  # of tensors that differ from run to run, and of constants in `scope`
        self.varies: set[int] = set()
        self.own: set[int] = set()  # tensors that came to be in a line, and may be written to
        self.held: list[Any] = []  # what is known by id
        self.layouts = False  # whether the kernel looked at the layout of a tensor
        self.count = 0

    def varying(self, tensor: Any, name: str, own: bool = False) -> None:
        """Know a tensor as a variable from now on."""
        self.held.append(tensor)
        self.names[id(tensor)] = name
        self.varies.add(id(tensor))
        if own:
            self.own.add(id(tensor))

    def add(self, expression: str) -> str:
        """Note a line; the name of its result."""
        if len(self.lines) >= LINES:
            raise Ended
        name = f"{self.prefix}t{self.count}"
        self.count += 1
        self.lines.append((name, expression))
        return name

    def constant(self, value: Any) -> str:
        """A name for an object."""
        if id(value) not in self.names:
            self.held.append(value)
            self.names[id(value)] = f"{self.prefix}c{len(self.scope)}"
            self.scope[self.names[id(value)]] = value
        return self.names[id(value)]

    def text(self, value: Any) -> str:
        """A value as source."""
        if isinstance(value, Tensor):
            return self.names[id(value)] if id(value) in self.varies else self.constant(value)
        if value is None or value is Ellipsis or type(value) in {bool, int, str}:
            return repr(value)
        if type(value) is float and isfinite(value):
            return repr(value)
        if isinstance(value, tuple | list):
            inner = "".join(f"{self.text(item)}, " for item in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        if isinstance(value, slice) and self.depends(value):
            raise Ended
        return self.constant(value)

    def depends(self, value: Any) -> bool:
        """Whether a value holds a variable."""
        if isinstance(value, tuple | list):
            return any(map(self.depends, value))
        if isinstance(value, slice):
            return any(map(self.depends, (value.start, value.stop, value.step)))
        return id(value) in self.varies

    def call(self, fn: Any, args: Any, keywords: Mapping[str, Any]) -> Any:
        """Call a function of torch, and note it where it depends on variables."""
        name = getattr(fn, "__name__", "")
        self.layouts |= fn in LAYOUT
        if fn in ASKED:
            return fn(*args, **keywords)
        if name in VALUES or (name == "where" and len(args) + len(keywords) == 1):
            raise Ended
        if fn is torch.repeat_interleave or name == "repeat_interleave":
            repeats = args[1] if len(args) > 1 else keywords.get("repeats")
            if isinstance(repeats, Tensor):
                raise Ended
        depends = self.depends([*args, *keywords.values()])
        if name in {"__getitem__", "__setitem__"}:
            return self.item(fn, args, depends)
        if _writes(name) or keywords.get("out") is not None:
            target = args[0] if keywords.get("out") is None else keywords["out"]
            if id(target) not in self.own:
                raise Ended
            self.lines.append(("", self.source(fn, args, keywords)))
            return fn(*args, **keywords)
        value = fn(*args, **keywords)
        if isinstance(value, torch.dtype | torch.device | torch.Size | torch.layout):
            return value
        if not depends and isinstance(value, Tensor) and (value.nbytes <= SMALL or _views(value, args)):
            return value  # a constant, unless somebody writes to it
        if isinstance(value, Tensor) and args and isinstance(args[0], Tensor) and fn in SAME:
            before = args[0]
            if _state(before) == _state(value):  # a copy, elsewhere in memory, may make MKL round otherwise
                if before is not value and id(before) in self.varies:
                    self.varying(value, self.names[id(before)])
                return value
        return self.result(self.source(fn, args, keywords), value)

    def opaque(self, fn: Any, args: Any, keywords: Mapping[str, Any]) -> Any:
        """Call a function, whatever it does, and note it as one line."""
        with unseen():
            value = fn(*args, **keywords)
        if value is NotImplemented:  # by the signature
            return value
        if value is None:
            if self.depends([*args, *keywords.values()]):
                self.lines.append(("", self.source(fn, args, keywords)))
            return None  # a check of constants that has passed holds for all runs
        return self.result(self.source(fn, args, keywords), value)

    def source(self, fn: Any, args: Any, keywords: Mapping[str, Any]) -> str:
        """A call as source."""
        if fn in NAMED:
            return f"{self.text(args[0])}.{NAMED[fn]}"
        given = [*map(self.text, args), *(f"{name}={self.text(value)}" for name, value in keywords.items())]
        return f"{self.constant(fn)}({', '.join(given)})"

    def result(self, expression: str, value: Any) -> Any:
        """Note a line that computes tensors."""
        if isinstance(value, Tensor):
            self.varying(value, self.add(expression), own=True)
            return value
        if not isinstance(value, tuple | list) or any(not isinstance(item, Tensor | None) for item in value):
            raise Ended
        name = self.add(expression)
        for position, item in enumerate(value):
            if item is not None:
                self.varying(item, self.add(f"{name}[{position}]"), own=True)
        return value

    def item(self, fn: Any, args: Any, depends: bool) -> Any:
        """Take or write a part of a tensor; a mask takes as many elements as its values say."""
        x, key = args[:2]
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(k, list | bool) or (isinstance(k, Tensor) and k.dtype in MASKS) for k in keys):
            raise Ended
        if any(isinstance(k, Tensor) for k in keys) or any(self.depends(k) for k in keys):
            where = self.text(key)
        else:
            where = self.constant(key)
        if len(args) > 2:
            if id(x) not in self.own:
                raise Ended
            self.lines.append(("", f"{self.text(x)}[{where}] = {self.text(args[2])}"))
            return fn(*args)
        value = fn(*args)
        if not depends:
            return value
        return self.result(self.part(x, keys) or f"{self.text(x)}[{where}]", value)

    def part(self, x: Any, keys: Sequence[Any]) -> str | None:
        """One slice of one axis as what takes torch least; None for anything else."""
        if any(not isinstance(k, slice) or k.step not in {None, 1} for k in keys):
            return None
        cut = [(axis, k.indices(x.shape[axis])) for axis, k in enumerate(keys) if k != slice(None)]
        cut = [(axis, (start, stop)) for axis, (start, stop, _) in cut if (start, stop) != (0, x.shape[axis])]
        if len(cut) != 1:
            return None
        axis, (start, stop) = cut[0]
        return f"{self.constant(torch.narrow)}({self.text(x)}, {axis}, {start}, {max(stop - start, 0)})"

    def needed(self, results: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """The lines that lead to the results."""
        read = set(results)
        kept: list[tuple[str, str]] = []
        for target, text in reversed(self.lines):
            if not target or target in read:
                kept.append((target, text))
                read.update(word for word in WORD.findall(text) if word.startswith(self.prefix))
        return tuple(reversed(kept))


MASKS = {torch.bool, torch.uint8}
WORD = re.compile(r"\w+")


def _views(value: Any, args: Sequence[Any]) -> bool:
    """Whether a tensor has the memory of the first argument."""
    before = args[0] if args and isinstance(args[0], Tensor) else None
    return before is not None and value.untyped_storage().data_ptr() == before.untyped_storage().data_ptr()


def _state(x: Any) -> Any:
    """What tells a tensor from a copy or another view of it."""
    return x.data_ptr(), x.dtype, x.shape, x.stride()


def _writes(name: str) -> bool:
    """Whether a function of that name writes to its first argument."""
    inner = name.partition(".")[0]
    in_place = inner.endswith("_") and not inner.endswith("__")
    return in_place or (name.startswith("__i") and name not in {"__invert__", "__index__", "__int__", "__iter__"})


def _derived(keep: Callable[..., Any], tape: Tape) -> Callable[..., Any]:
    """What keeps results of constants, unseen by the recording, and leaves those of variables to it."""

    def derived(make: Callable[..., Any], *args: Any) -> Any:
        if tape.depends(args):
            return make(*args)
        with unseen():
            return keep(make, *args)

    derived.holds = lambda value: not tape.depends(value) and lasting(keep, value)  # type: ignore[attr-defined]
    return derived


@contextmanager
def unseen() -> Iterator[None]:
    """Nothing of what is called in this context is noted."""
    tape, _current.tape = _current.tape, None
    try:
        with torch._C.DisableTorchFunction():  # noqa: SLF001  (torch has no public name for it)
            yield
    finally:
        _current.tape = tape


def recorded(
    fn: Callable[..., Any],
    xp: Any,
    args: Sequence[Any],
    keywords: Mapping[str, Any],
    names: Mapping[int, str],
    prefix: str,
) -> Recording | None:
    """The calls that `fn(xp, *args, **keywords)` makes; None where they do not follow from the signature.

    `names` has the variables that hold the arguments, by position; arguments without one are constants. The names of
    the recording begin with `prefix`.
    """
    tape, args = Tape(prefix), list(args)
    for position, name in names.items():
        if not isinstance(args[position], Tensor):
            return None
        if any(args[position] is other for i, other in enumerate(args) if i != position):
            args[position] = args[position].detach()  # in another run they may be two
        tape.varying(args[position], name)
    more = dict(keywords)
    if isinstance(fn, partial) and "derived" in fn.keywords:
        more["derived"] = _derived(fn.keywords["derived"], tape)
    if _current.tape is not None:
        return None
    _current.tape = tape
    try:
        with _Mode(tape):
            result = fn(xp, *args, **more)
        if result is NotImplemented:
            return Recording((), {}, None, (), ())
        values = result if isinstance(result, tuple) else (result,)
        if any(not isinstance(value, Tensor | None) for value in values):
            return None
        texts = tuple(map(tape.text, values))
    except Exception:  # noqa: BLE001  (a real mistake of the arguments comes up again in the call that is made instead)
        return None
    finally:
        _current.tape = None
    layouts = tuple((i, args[i].stride()) for i in names) if tape.layouts else ()
    return Recording(tape.needed(texts), tape.scope, texts, tuple(values), layouts, "stride()")
