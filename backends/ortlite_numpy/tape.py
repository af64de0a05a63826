"""The lines of a recording, and arrays that write them: each notes what NumPy does with it.

What Python's operators and an array's methods do stands here; what NumPy's functions do, in `lowering`.
"""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from ortlite import ordered

__all__ = [
    "ASKED", "CURRENT", "DIRECT", "KNOWN", "LOWER", "WORD", "Ended", "Tape", "Traced", "aside", "called", "current",
    "holds_traced", "opaque", "real", "recording", "root",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

LINES = 512  # of a recording: more are better off in a loop
WORD = re.compile(r"\w+")
SMALL = 1 << 14  # bytes of an array made on the way up to which it is copied: somebody may still write to it

# What `lowering` knows of NumPy's functions: what is called instead of one, those that ask for shapes and dtypes alone,
# those of which the shape and the dtype of the result are a matter of those of the arguments, and what is behind one.
LOWER: dict[Any, Any] = {}
ASKED: set[Any] = set()
KNOWN: set[Any] = set()
DIRECT: dict[Any, Any] = {}


class Ended(Exception):
    """The kernel does what a recording cannot hold."""


class _Current(threading.local):
    tape: Tape | None = None


CURRENT = _Current()


def recording() -> bool:
    """Whether this thread is recording a kernel."""
    return CURRENT.tape is not None


class Tape:
    """The lines of one recording, and the objects that their names stand for."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.lines: list[tuple[str, str]] = []  # (target or "", expression or statement)
        self.scope: dict[str, Any] = {}
        self.names: dict[Any, str] = {}
        self.held: list[Any] = []  # what `names` and `lasting` know by id
        self.lasting: set[int] = set()  # arrays that nobody writes to
        self.layouts = False  # whether the kernel looked at the layout of an array
        self.count = 0
        self.inside: set[str] = set()  # variables of parts (`apart`), which nothing else can read
        self.homes: dict[int, tuple[str, Any]] = {}  # the names of arrays that were made empty, by id, and these

    def constant(self, value: Any) -> str:
        """A name for an object."""
        key: Any = id(value)
        if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype != object:
            key = value.dtype, value.tobytes()
        elif isinstance(value, slice):
            key = str(value)
        elif isinstance(value, np.ndarray) and self.may_change(value):
            value = value.copy("K")
            key = id(value)
        if key not in self.names:
            name = self.names[key] = f"{self.prefix}c{len(self.scope)}"
            self.scope[name] = value.copy() if isinstance(key, tuple) and len(key) == 2 else value
            self.held.append(value)
        return self.names[key]

    def may_change(self, array: Any) -> bool:
        """Whether somebody may still write to an array: one made on the way, which is small."""
        return bool(array.flags.writeable) and array.nbytes <= SMALL and id(root(array)) not in self.lasting

    def last(self, value: Any) -> Any:
        """Note that nobody writes to an array, or to those in a tuple."""
        if type(value) in {tuple, list}:
            for item in value:
                self.last(item)
        elif isinstance(value, np.ndarray):
            self.held.append(root(value))
            self.lasting.add(id(root(value)))
        return value

    def text(self, value: Any) -> str:
        """A value as source."""
        kind = type(value)
        if kind is Traced:
            if value.tape is not self:
                raise Ended
            return str(value.name)
        if value is None or value is Ellipsis or kind in {bool, int, str}:
            return repr(value)
        if kind in {tuple, list}:
            inner = "".join(f"{self.text(item)}, " for item in value)
            return f"({inner})" if kind is tuple else f"[{inner}]"
        return self.constant(value)

    def line(self, expression: str, value: Any) -> Any:
        """Note a line that computes `value`; the value as arrays that note what is done with them."""
        if isinstance(value, tuple | list):
            name = self.add(expression)
            items = [Traced(self.check(item), self.add(f"{name}[{i}]"), self) for i, item in enumerate(value)]
            return type(value)(items)
        return Traced(self.check(value), self.add(expression), self)

    @staticmethod
    def check(value: Any) -> Any:
        if not isinstance(value, np.ndarray | np.generic):
            raise Ended
        return value

    def fresh(self, made: Any, inputs: Sequence[Any]) -> bool:
        """Whether the last line made `made` as an empty array like the only array among `inputs`."""
        arrays = [x for x in inputs if getattr(x, "ndim", 0)]
        if not made.ndim or len(arrays) != 1 or type(arrays[0]) is not Traced or not self.lines:
            return False
        return self.lines[-1] == (made.name, f"{self.names.get(id(np.empty_like))}({arrays[0].name})")

    def noted(self, work: Callable[[], object]) -> list[tuple[str, str]]:
        """The lines of what `work` does, which are left out of the recording."""
        before, self.lines = self.lines, []
        try:
            work()
            self.inside.update(target for target, _ in self.lines)
            return self.lines
        finally:
            self.lines = before

    def outside(self, word: str) -> bool:
        """Whether a word of a line is a variable that a part reads from outside."""
        return word.startswith((f"{self.prefix}v", f"{self.prefix}t")) and word not in self.inside

    def add(self, expression: str, target: bool = True) -> str:
        if len(self.lines) >= LINES or (self.inside and not self.inside.isdisjoint(WORD.findall(expression))):
            raise Ended
        name = f"{self.prefix}t{self.count}" if target else ""
        self.count += target
        self.lines.append((name, expression))
        return name


def root(array: Any) -> Any:
    """The array whose memory another one is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def real(value: Any) -> Any:
    """The array in a traced one, and those in tuples and lists."""
    kind = type(value)
    if kind is Traced:
        return value.value
    if kind is tuple or kind is list:
        return kind(map(real, value))
    return value


def holds_traced(value: Any) -> bool:
    """Whether a value is a traced array, or a tuple or list with one in it."""
    return type(value) is Traced or (type(value) in {tuple, list} and any(map(holds_traced, value)))


def called(tape: Tape, fn: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """A call as source."""
    given = [*map(tape.text, args), *(f"{name}={tape.text(value)}" for name, value in keywords.items())]
    return f"{tape.constant(fn)}({', '.join(given)})"


def opaque(fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn` on the arrays, and note the call as it is. What it returns is new, or nothing."""
    tape = current()
    text = called(tape, fn, args, {})
    value = aside(fn)(*map(real, args))
    if value is None:
        tape.add(text, target=False)
        return None
    return tape.line(text, value)


def current() -> Tape:
    """What this thread is recording on. Raises Ended where it is not."""
    tape = CURRENT.tape
    if tape is None:
        raise Ended
    return tape


def aside(fn: F) -> F:
    """A function whose results are kept: they are arrays, also where a kernel that is being recorded asks first."""

    @wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        tape, CURRENT.tape = CURRENT.tape, None
        try:
            return fn(*args, **keywords)
        finally:
            CURRENT.tape = tape

    return call  # type: ignore[return-value]


class Traced:
    """An array that notes what is done with it."""

    __slots__ = ("given", "name", "tape", "value")
    __hash__ = object.__hash__
    shape: Any
    dtype: Any
    ndim: Any
    size: Any
    copy: Any
    swapaxes: Any

    def __init__(self, value: Any, name: str, tape: Tape, given: bool = False):
        self.value, self.name, self.tape, self.given = value, name, tape, given

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return np.ndarray

    @property
    def flags(self) -> Any:
        self.tape.layouts = True
        return self.value.flags

    @property
    def strides(self) -> Any:
        self.tape.layouts = True
        return self.value.strides

    @property
    def T(self) -> Any:  # noqa: N802
        return self.transpose()

    @property
    def mT(self) -> Any:  # noqa: N802
        return self.swapaxes(-1, -2)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self.value)))

    def __getitem__(self, key: Any) -> Any:
        if any(holds_traced(k) and k.dtype.kind not in "iu" for k in (key if type(key) is tuple else (key,))):
            raise Ended  # a mask: how many it takes is a matter of values
        return self.tape.line(f"{self.name}[{self.tape.text(key)}]", self.value[real(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.given or any(
            holds_traced(k) and k.dtype.kind not in "iu" for k in (key if type(key) is tuple else (key,))
        ):
            raise Ended
        self.value[real(key)] = real(value)
        self.tape.add(f"{self.name}[{self.tape.text(key)}] = {_operand(self.tape, value, self)}", target=False)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Ended

    def _value(self, *_: Any) -> Any:
        raise Ended

    __bool__ = __int__ = __float__ = __index__ = __complex__ = __round__ = _value
    item = tolist = tobytes = _value

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        tape, out = self.tape, keywords.pop("out", None)
        if method not in {"__call__", "reduce", "accumulate"} or any(not _free(x) for x in out or () if x is not None):
            raise Ended
        fn = ufunc if method == "__call__" else getattr(ufunc, method)
        target = {} if out is None else {"out": out if len(out) > 1 else out[0]}
        value = fn(*map(real, inputs), **_reals(keywords), **_reals(target))
        if method == "__call__" and ufunc is not np.matmul:
            given = [_operand(tape, x, *inputs, like=value) for x in inputs]
        else:
            given = [tape.text(x) for x in inputs]
        if method == "reduce":  # by position costs less than by name
            axis, dtype, keep = (keywords.pop(k, v) for k, v in (("axis", 0), ("dtype", None), ("keepdims", False)))
            given += map(tape.text, (axis, dtype, target.pop("out", None), bool(keep)))
        given += [f"{name}={tape.text(item)}" for name, item in (keywords | target).items()]
        text = f"{tape.constant(fn)}({', '.join(given)})"
        if out is None:
            return tape.line(text, value)
        if any(x is None for x in out):
            raise Ended
        if method == "__call__" and len(out) == 1 and not keywords and tape.fresh(out[0], inputs):
            alone, made = fn(*map(real, inputs)), out[0].value
            if (alone.dtype, alone.strides) == (made.dtype, made.strides):  # it makes such an array by itself
                tape.lines[-1] = out[0].name, f"{tape.constant(fn)}({', '.join(given[: len(inputs)])})"
                return out[0]
        tape.add(text, target=False)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, fn: Any, types: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        lower = LOWER.get(fn)
        if lower is not None and (made := lower(*args, **keywords)) is not NotImplemented:
            return made
        if fn in ASKED:
            return fn(*real(tuple(args)), **_reals(keywords))
        if fn not in KNOWN or any(not _free(x) for x in (keywords.get("out"),) if x is not None):
            raise Ended
        if fn is np.where and len(args) != 3:
            raise Ended
        if fn is np.copyto:
            if not _free(args[0]):
                raise Ended
            fn(*real(tuple(args)), **_reals(keywords))
            self.tape.add(called(self.tape, fn, args, keywords), target=False)
            return None
        text, value = called(self.tape, DIRECT.get(fn, fn), args, keywords), fn(*real(tuple(args)), **_reals(keywords))
        if (out := keywords.get("out")) is not None:
            self.tape.add(text, target=False)
            return out
        return self.tape.line(text, value)

    def reshape(self, *shape: Any, **keywords: Any) -> Any:
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if keywords.pop("copy", None) or keywords.pop("order", "C") != "C" or keywords:
            raise Ended
        value = self.value.reshape(shape)
        if value.nbytes >= ordered.LARGE and not np.may_share_memory(value, self.value):
            return opaque(ordered.in_order, self).reshape(shape)
        return self if value.shape == self.value.shape else self._method("reshape", value, value.shape)

    def transpose(self, *axes: Any) -> Any:
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
            axes = tuple(axes[0] or ())
        return self._method("transpose", self.value.transpose(*axes), *axes)

    def astype(self, dtype: Any, *, copy: bool = True) -> Any:
        if not copy and self.value.dtype == dtype:
            return self
        return self._method("astype", self.value.astype(dtype), np.dtype(dtype))

    def _method(self, name: str, value: Any, *args: Any) -> Any:
        return self.tape.line(f"{self.name}.{name}({', '.join(map(self.tape.text, args))})", value)

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.add.reduce(self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.multiply.reduce(self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.maximum.reduce(self, axis=axis, out=out, keepdims=keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.minimum.reduce(self, axis=axis, out=out, keepdims=keepdims)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.logical_or.reduce(self, axis=axis, out=out, keepdims=keepdims)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return np.logical_and.reduce(self, axis=axis, out=out, keepdims=keepdims)

    def clip(self, min: Any = None, max: Any = None, out: Any = None) -> Any:
        if min is None or max is None or UFUNC_CLIP is None:
            raise Ended
        return UFUNC_CLIP(self, min, max) if out is None else UFUNC_CLIP(self, min, max, out=out)

    def squeeze(self, axis: Any = None) -> Any:
        return self.reshape(self.value.squeeze(axis).shape)

    def view(self, *dtype: Any) -> Any:
        return self._method("view", self.value.view(*dtype), *dtype)

    def dot(self, other: Any) -> Any:
        return self._method("dot", self.value.dot(real(other)), other)


def _reals(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {name: real(value) for name, value in keywords.items()}


def _free(x: Any) -> bool:
    """Whether an array may be written to: one that came to be during the recording."""
    return type(x) is Traced and not x.given


def _operand(tape: Tape, x: Any, *others: Any, like: Any = None) -> str:
    """An operand of an elementwise function, as what takes NumPy least: an array, with as many axes."""
    if type(x) is Traced:
        return tape.text(x)
    if type(x) in {int, float}:
        dtypes = {other.dtype for other in others if type(other) is Traced}
        kinds = "f" if type(x) is float else "fiu"
        if len(dtypes) == 1 and (dtype := next(iter(dtypes))).kind in kinds and dtype.isbuiltin == 1:
            try:
                return tape.constant(np.asarray(x, dtype))
            except OverflowError:  # comparisons take such numbers
                return tape.text(x)
    if isinstance(x, np.generic):
        return tape.constant(np.asarray(x))
    if isinstance(x, np.ndarray) and like is not None and x.ndim < like.ndim and x.size == like.size:
        return tape.constant(x.reshape(like.shape))
    return tape.text(x)


AS_IT_IS = {operator.pow, operator.matmul}  # what is special to a number, and to an array of one axis


def _binary(symbol: str, fn: Any) -> tuple[Any, Any]:
    def forward(self: Any, other: Any) -> Any:
        value = fn(self.value, real(other))
        text = self.tape.text(other) if fn in AS_IT_IS else _operand(self.tape, other, self, like=value)
        return self.tape.line(f"{self.name} {symbol} {text}", value)

    def backward(self: Any, other: Any) -> Any:
        value = fn(real(other), self.value)
        text = self.tape.text(other) if fn in AS_IT_IS else _operand(self.tape, other, self, like=value)
        return self.tape.line(f"{text} {symbol} {self.name}", value)

    return forward, backward


def _in_place(symbol: str, fn: Any, plain: Any) -> Any:
    def change(self: Any, other: Any) -> Any:
        if self.given:
            raise Ended  # no kernel changes what it is given
        if not isinstance(self.value, np.ndarray):
            return plain(self, other)  # a number becomes another one
        text = self.tape.text(other) if fn is operator.ipow else _operand(self.tape, other, self, like=self.value)
        self.value = fn(self.value, real(other))
        self.tape.add(f"{self.name} {symbol}= {text}", target=False)
        return self

    return change


def _unary(symbol: str, fn: Any) -> Any:
    return lambda self: self.tape.line(f"{symbol}{self.name}", fn(self.value))


for _name, _symbol in {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}.items():  # fmt: skip
    _fn = getattr(operator, f"{_name}_" if _name in {"and", "or"} else _name)
    _forward, _backward = _binary(_symbol, _fn)
    setattr(Traced, f"__{_name}__", _forward)
    setattr(Traced, f"__r{_name}__", _backward)
    if _name != "matmul":
        setattr(Traced, f"__i{_name}__", _in_place(_symbol, getattr(operator, f"i{_name}"), _fn))
for _name, _symbol in {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "gt": ">", "ge": ">="}.items():
    setattr(Traced, f"__{_name}__", _binary(_symbol, getattr(operator, _name))[0])
for _name, _symbol in {"neg": "-", "pos": "+", "invert": "~"}.items():
    setattr(Traced, f"__{_name}__", _unary(_symbol, getattr(operator, _name)))
Traced.__abs__ = np.absolute  # type: ignore[attr-defined]

for _name in ("shape", "dtype", "ndim", "size", "itemsize", "nbytes"):
    setattr(Traced, _name, property(operator.attrgetter(f"value.{_name}")))


def _simple(name: str) -> Any:
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        if "out" in keywords:
            raise Ended
        given = [*map(self.tape.text, args), *(f"{k}={self.tape.text(v)}" for k, v in keywords.items())]
        value = getattr(self.value, name)(*real(args), **_reals(keywords))
        return self.tape.line(f"{self.name}.{name}({', '.join(given)})", value)

    return method


for _name in (
    "swapaxes copy ravel flatten mean var std argmax argmin cumsum cumprod take repeat round conj conjugate diagonal"
).split():
    setattr(Traced, _name, _simple(_name))

_core: Any = getattr(np, "_core", None)
# functions of NumPy's behind its public ones, which take longer: where they are not found, the public ones must do
UFUNC_CLIP: Any = getattr(getattr(_core, "umath", None), "clip", None)
