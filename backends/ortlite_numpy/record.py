"""What a kernel does at one signature, written down: the calls of NumPy that are left when all else is decided.

A kernel branches on shapes, dtypes and layouts, never on values. So it is run once on arrays that note what is done
with them, and what they noted is code: one line for each call, without the Python that led to it. Whoever asks for a
value on the way (`float(x)`, a mask as an index, a function not known here) ends the recording, and the kernel is
called as before.
"""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ortlite import ordered
from ortlite.derived import lasting
from ortlite.provider import Recording

__all__ = ["Ended", "Traced", "apart", "aside", "numpy", "opaque", "recorded", "recording"]

F = TypeVar("F", bound=Callable[..., Any])

LINES = 512  # of a recording: more are better off in a loop
LARGE, LINE = 1 << 16, 64  # bytes of an array for which it pays to choose its place; and of a line of the cache
WORD = re.compile(r"\w+")
SMALL = 1 << 14  # bytes of an array made on the way up to which it is copied: somebody may still write to it


class Ended(Exception):
    """The kernel does what a recording cannot hold."""


class _Current(threading.local):
    tape: Tape | None = None


_current = _Current()


def recording() -> bool:
    """Whether this thread is recording a kernel."""
    return _current.tape is not None


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
        return bool(array.flags.writeable) and array.nbytes <= SMALL and id(_root(array)) not in self.lasting

    def last(self, value: Any) -> Any:
        """Note that nobody writes to an array, or to those in a tuple."""
        if type(value) in {tuple, list}:
            for item in value:
                self.last(item)
        elif isinstance(value, np.ndarray):
            self.held.append(_root(value))
            self.lasting.add(id(_root(value)))
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


def _root(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _real(value: Any) -> Any:
    """The array in a traced one, and those in tuples and lists."""
    kind = type(value)
    if kind is Traced:
        return value.value
    if kind is tuple or kind is list:
        return kind(map(_real, value))
    return value


def _traced(value: Any) -> bool:
    return type(value) is Traced or (type(value) in {tuple, list} and any(map(_traced, value)))


def _call(tape: Tape, fn: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    given = [*map(tape.text, args), *(f"{name}={tape.text(value)}" for name, value in keywords.items())]
    return f"{tape.constant(fn)}({', '.join(given)})"


def opaque(fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn` on the arrays, and note the call as it is. What it returns is new, or nothing."""
    tape = _tape(args)
    text = _call(tape, fn, args, {})
    value = aside(fn)(*map(_real, args))
    if value is None:
        tape.add(text, target=False)
        return None
    return tape.line(text, value)


def apart(run: Callable[..., None], fn: Callable[[int, int], object], edges: Sequence[int], seconds: float) -> None:
    """Note a call `run(parts, seconds, *arrays)`, in which each of `parts` does with the arrays what `fn` does now
    between two edges.
    """
    tape = _tape(())
    texts = [tape.noted(partial(fn, start, stop)) for start, stop in pairwise(edges)]
    words = dict.fromkeys(word for lines in texts for _, text in lines for word in WORD.findall(text))
    given = ", ".join(word for word in words if tape.outside(word))
    parts = tuple(_part(tape, lines, given) for lines in texts)
    tape.add(f"{tape.constant(run)}({tape.text(parts)}, {tape.text(seconds)}, {given})", target=False)


def _part(tape: Tape, lines: Sequence[tuple[str, str]], given: str) -> Callable[..., None]:
    """The lines as a function. What nobody reads any more is let go, so that the next array may lie there."""
    last = {name: number for number, line in enumerate(lines) for name in WORD.findall(" ".join(line))}
    source = [f"def part({given}): pass"] if not lines else [f"def part({given}):"]
    for number, (target, text) in enumerate(lines):
        source.append(f" {target} = {text}" if target else f" {text}")
        names = {target, *WORD.findall(text)} & tape.inside
        if gone := [name for name in names if name and last[name] == number]:
            source.append(f" del {', '.join(gone)}")
    scope = dict(tape.scope)
    exec(compile("\n".join(source), "<part of a recording>", "exec"), scope)  # noqa: S102
    part: Callable[..., None] = scope["part"]
    return part


def _tape(args: Any) -> Tape:
    tape = _current.tape
    if tape is None:
        raise Ended
    return tape


def aside(fn: F) -> F:
    """A function whose results are kept: they are arrays, also where a kernel that is being recorded asks first."""

    @wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        tape, _current.tape = _current.tape, None
        try:
            return fn(*args, **keywords)
        finally:
            _current.tape = tape

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
        if any(_traced(k) and k.dtype.kind not in "iu" for k in (key if type(key) is tuple else (key,))):
            raise Ended  # a mask: how many it takes is a matter of values
        return self.tape.line(f"{self.name}[{self.tape.text(key)}]", self.value[_real(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.given or any(_traced(k) and k.dtype.kind not in "iu" for k in (key if type(key) is tuple else (key,))):
            raise Ended
        self.value[_real(key)] = _real(value)
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
        value = fn(*map(_real, inputs), **_reals(keywords), **_reals(target))
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
            alone, made = fn(*map(_real, inputs)), out[0].value
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
            return fn(*_real(tuple(args)), **_reals(keywords))
        if fn not in KNOWN or any(not _free(x) for x in (keywords.get("out"),) if x is not None):
            raise Ended
        if fn is np.where and len(args) != 3:
            raise Ended
        if fn in WRITING:
            if not _free(args[0]):
                raise Ended
            fn(*_real(tuple(args)), **_reals(keywords))
            self.tape.add(_call(self.tape, fn, args, keywords), target=False)
            return None
        text, value = _call(self.tape, DIRECT.get(fn, fn), args, keywords), fn(*_real(tuple(args)), **_reals(keywords))
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
        return self._method("dot", self.value.dot(_real(other)), other)


def _reals(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _real(value) for name, value in keywords.items()}


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
        value = fn(self.value, _real(other))
        text = self.tape.text(other) if fn in AS_IT_IS else _operand(self.tape, other, self, like=value)
        return self.tape.line(f"{self.name} {symbol} {text}", value)

    def backward(self: Any, other: Any) -> Any:
        value = fn(_real(other), self.value)
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
        self.value = fn(self.value, _real(other))
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
        value = getattr(self.value, name)(*_real(args), **_reals(keywords))
        return self.tape.line(f"{self.name}.{name}({', '.join(given)})", value)

    return method


for _name in (
    "swapaxes copy ravel flatten mean var std argmax argmin cumsum cumprod take repeat round conj conjugate diagonal"
).split():
    setattr(Traced, _name, _simple(_name))

_core: Any = getattr(np, "_core", None)
# functions of NumPy's behind its public ones, which take longer: where they are not found, the public ones must do
UFUNC_CLIP: Any = getattr(getattr(_core, "umath", None), "clip", None)
EINSUM: Any = getattr(getattr(_core, "multiarray", None), "c_einsum", np.einsum)


def _moveaxis(x: Any, source: Any, destination: Any) -> Any:
    marks = np.moveaxis(np.broadcast_to(np.False_, tuple(range(2, x.ndim + 2))), source, destination)
    return x.transpose(tuple(n - 2 for n in marks.shape))


def _expand_dims(a: Any, axis: Any) -> Any:
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    rank = a.ndim + len(axes)
    new = {k % rank for k in axes}
    if len(new) != len(axes) or any(not -rank <= k < rank for k in axes):
        raise Ended  # NumPy says what is wrong
    shape = iter(a.shape)
    return a.reshape(tuple(1 if k in new else next(shape) for k in range(rank)))


def _reduce(name: str) -> Any:
    return lambda x, /, axis=None, **keywords: getattr(x, name)(axis=axis, **keywords)  # others end the recording


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    if type(a) is not Traced:
        raise Ended
    return a.clip(a_min if min is None else min, a_max if max is None else max, out)


def _method_of(name: str) -> Any:
    def call(x: Any, /, *args: Any, **keywords: Any) -> Any:
        if type(x) is not Traced:
            raise Ended
        return getattr(x, name)(*args, **keywords)

    return call


def _take(a: Any, indices: Any, axis: Any = None, **keywords: Any) -> Any:
    """NumPy does not ask the indices whether they want to know."""
    if type(indices) is not Traced and type(a) is not Traced:
        return np.take(a, indices, axis, **keywords)
    if keywords:
        raise Ended
    tape = _tape(())
    return tape.line(f"{tape.text(a)}.take({tape.text(indices)}, {axis})", _real(a).take(_real(indices), axis))


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    if out is not None or not isinstance(a, Traced):
        return NotImplemented
    return a.tape.line(f"{a.name}.dot({a.tape.text(b)})", np.dot(a.value, _real(b)))


def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    if sorter is not None:
        raise Ended
    tape = _tape(())
    return tape.line(f"{tape.text(a)}.searchsorted({tape.text(v)}, {side!r})", _real(a).searchsorted(_real(v), side))


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **keywords: Any) -> Any:
    """What is behind NumPy's mean, which asks much first. Narrow floats are added in float32 there."""
    if type(a) is not Traced or a.dtype.char not in "fd" or not a.size or dtype or out is not None or keywords:
        return NotImplemented
    total: Any = a.sum(axis=axis, keepdims=bool(keepdims))
    return total / (a.size // total.size)


def _stack(arrays: Sequence[Any], axis: int = 0, **keywords: Any) -> Any:
    """As numpy.stack puts it together, without its Python."""
    shapes = {getattr(x, "shape", None) for x in arrays}
    shape = shapes.pop()
    if shapes or shape is None or keywords or not -len(shape) <= axis + 1 <= len(shape) + 1:
        return NotImplemented  # or NumPy says what is wrong
    axis %= len(shape) + 1
    place = (*(slice(None),) * axis, None)
    return np.concatenate([x[place] for x in arrays], axis=axis)


def _round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """To whole numbers, floats by their own function."""
    if decimals or a.dtype.kind != "f":
        raise Ended
    return np.rint(a) if out is None else np.rint(a, out=out)


def _broadcast(array: Any, shape: Any, subok: bool = False) -> Any:
    """Nothing where the shape is the same: nobody writes to what is broadcast."""
    if array.shape == tuple(shape):
        return array
    text = _call(array.tape, np.broadcast_to, (array, tuple(shape)), {})
    return array.tape.line(text, np.broadcast_to(array.value, shape))


LOWER: dict[Any, Any] = {
    np.reshape: lambda a, /, shape, order="C", *, copy=None: a.reshape(shape, order=order, copy=copy),
    np.transpose: lambda a, axes=None: a.transpose(axes),
    np.matrix_transpose: lambda x, /: x.swapaxes(-1, -2),
    np.swapaxes: _method_of("swapaxes"),
    np.moveaxis: _moveaxis,
    np.expand_dims: _expand_dims,
    np.squeeze: lambda a, axis=None: a.squeeze(axis),
    np.clip: _clip,
    np.ravel: _method_of("ravel"),
    np.copy: lambda a, order="K", subok=False: np.array(a) if order != "K" else a.copy("K"),
    **{getattr(np, name): _reduce(name) for name in ("sum", "prod", "max", "min", "any", "all")},
}
# they ask for shapes and dtypes alone
ASKED = {np.result_type, np.shape, np.ndim, np.size, np.can_cast, np.iscomplexobj, np.isrealobj, np.isscalar}
# functions of which the shape and the dtype of the result are a matter of those of the arguments
KNOWN = {
    getattr(np, name)
    for name in (
        "concatenate stack where broadcast_to broadcast_arrays tile repeat pad flip roll split array_split unstack "
        "empty_like zeros_like ones_like full_like einsum tensordot vecdot cumulative_sum cumulative_prod cumsum "
        "take_along_axis argmax argmin sort argsort mean var std dot tril triu diff copyto cross trace diagonal "
        "partition outer round nan_to_num vstack hstack atleast_1d atleast_2d inner"
    ).split()
}
LOWER[np.take], LOWER[np.searchsorted], LOWER[np.mean] = _take, _searchsorted, _mean
LOWER[np.round], LOWER[np.stack], LOWER[np.dot] = _round, _stack, _dot
LOWER[np.broadcast_to] = _broadcast
LOWER[np.argmax], LOWER[np.argmin] = _method_of("argmax"), _method_of("argmin")
WRITING = {np.copyto}
DIRECT: dict[Any, Any] = {np.einsum: EINSUM}  # without the search for a path


def _derived(keep: Any, tape: Tape) -> Callable[..., Any]:
    """What keeps results of constants, and leaves those of other arrays to the recording."""
    kept = aside(keep)

    def derived(make: Callable[..., Any], *args: Any) -> Any:
        return make(*args) if any(map(_traced, args)) else tape.last(kept(make, *args))

    derived.holds = lambda value: not _traced(value) and lasting(keep, value)  # type: ignore[attr-defined]
    return derived


def _steps(array: Any) -> tuple[int | None, ...]:
    """The strides that somebody walks along: where an axis has one element, it is a matter of who made the array."""
    return tuple(stride if n > 1 else None for stride, n in zip(array.strides, array.shape, strict=True))


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
    tape = Tape(prefix)
    given = [Traced(x, names[i], tape, given=True) if i in names else tape.last(x) for i, x in enumerate(args)]
    if recording():
        return None
    more = dict(keywords)
    if isinstance(fn, partial) and "derived" in fn.keywords:
        more["derived"] = _derived(fn.keywords["derived"], tape)
    _current.tape = tape
    try:
        result = fn(xp, *given, **more)
        if result is NotImplemented:
            return Recording((), {}, None, (), ())
        values = result if isinstance(result, tuple) else (result,)
        texts = tuple(tape.text(value) for value in values)
    except Exception:  # noqa: BLE001  (a real mistake of the arguments comes up again in the call that is made instead)
        return None
    finally:
        _current.tape = None
    layouts = tuple((i, _steps(args[i])) for i in names) if tape.layouts else ()
    return Recording(tuple(tape.lines), tape.scope, texts, tuple(map(_real, values)), layouts)


def _made(name: str) -> Any:
    make = getattr(np, name)

    def call(*args: Any, **keywords: Any) -> Any:
        tape = _current.tape
        value = make(*args, **keywords)
        if tape is None:
            return value
        if name == "empty" and value.nbytes >= LARGE:
            return tape.line(_call(tape, _aligned, (value.shape, value.dtype, value.nbytes), {}), value)
        return tape.line(_call(tape, make, args, keywords), value)

    call.__name__ = name
    return call


def _aligned(shape: tuple[int, ...], dtype: Any, size: int) -> Any:
    """An array of so many bytes that begins where a line of the cache does: else every long vector is in two lines."""
    memory = np.empty(size + LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.__array_interface__["data"][0] % LINE)


def _contiguous(a: Any, dtype: Any = None) -> Any:
    if type(a) is not Traced:
        plain = dtype is not None or not isinstance(a, np.ndarray) or a.flags.c_contiguous
        return np.ascontiguousarray(a, dtype) if plain else ordered.in_order(a)
    if dtype is not None and np.dtype(dtype) != a.dtype:
        raise Ended
    a.tape.layouts = True
    if a.value.flags.c_contiguous and a.value.ndim:
        return a
    return opaque(ordered.in_order, a) if a.value.nbytes >= ordered.LARGE else a.copy("C")


def _asarray(a: Any, dtype: Any = None, **keywords: Any) -> Any:
    if type(a) is not Traced:
        return np.asarray(a, dtype, **keywords)
    if keywords:
        raise Ended
    if isinstance(a.value, np.generic):
        return opaque(np.asarray, a) if dtype is None else opaque(np.asarray, a, np.dtype(dtype))
    return a if dtype is None else a.astype(dtype, copy=False)


def _array(a: Any, *args: Any, **keywords: Any) -> Any:
    if type(a) is not Traced:
        if _current.tape is None or not isinstance(a, np.ndarray):
            return np.array(a, *args, **keywords)
        return opaque(partial(np.array, **keywords), a, *args)  # a copy is made to be written to
    if args or keywords.keys() - {"order"} or isinstance(a.value, np.generic):
        raise Ended
    return a.copy(keywords.get("order", "K"))


if TYPE_CHECKING:
    import numpy  # noqa: ICN001
else:
    # NumPy as overrides see it: the functions that make arrays note it where a kernel is being recorded
    numpy = ModuleType("numpy")
    numpy.__dict__.update(np.__dict__, __getattr__=np.__getattr__)  # which imports numpy.random, among others
    numpy.__dict__.update({name: _made(name) for name in ("empty", "zeros", "ones", "full")})
    numpy.__dict__.update(ascontiguousarray=_contiguous, asarray=_asarray, array=_array, take=_take)
