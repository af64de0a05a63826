"""Neighbouring functions of elements as one kernel, which NVRTC compiles: one launch, and one pass over memory.

The kernels of a region run once at new shapes, on elements that note in C++ what is done with them. What they note is
the body of a `cupy.ElementwiseKernel`, one for all results of a shape. A region that does anything else runs as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import isfinite
from typing import Any, ClassVar

import cupy
import numpy as np

from ortlite import primitives as default
from ortlite.namespace import Namespace
from ortlite.provider import Compiler

__all__ = ["Elementwise", "Fused"]

log = logging.getLogger("ortlite")
OPERATORS = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu "
    "Greater GreaterOrEqual HardSigmoid HardSwish IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mul Neg Not Or "
    "PRelu Pow Reciprocal Relu Selu Sigmoid Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu "
    "Where Xor QuickGelu BiasGelu FastGelu".split()
)
TYPES = {"float32": "float", "float64": "double", "float16": "float16", "bool": "bool"}
TYPES |= {"int32": "int", "int64": "long long"}  # to be cast
FLOATS = ("float32", "float64")  # what is computed in
KEPT = 16  # shapes of a region
HALF = '#include "cupy/float16.cuh"'  # CuPy includes it by itself only for arguments

# Of the elements of `FLOATS`, and what comes of them: None for the same.
UNARY: dict[str, tuple[str, str | None]] = {
    **{
        name: (f"{name}({{0}})", None)
        for name in "acos acosh asin asinh atan atanh ceil cos cosh erf exp expm1 floor log log1p log2 sin sinh sqrt "
        "tan tanh trunc".split()
    },
    "abs": ("fabs({0})", None),
    "negative": ("-{0}", None),
    "square": ("{0} * {0}", None),
    "isnan": ("{0} != {0}", "bool"),
}
BINARY: dict[str, tuple[str, str | None]] = {
    "add": ("{0} + {1}", None),
    "subtract": ("{0} - {1}", None),
    "multiply": ("{0} * {1}", None),
    "divide": ("{0} / {1}", None),
    "pow": ("pow({0}, {1})", None),
    "maximum": ("{0} != {0} || {0} > {1} ? {0} : {1}", None),  # NaN where either is
    "minimum": ("{0} != {0} || {0} < {1} ? {0} : {1}", None),
    "less": ("{0} < {1}", "bool"),
    "less_equal": ("{0} <= {1}", "bool"),
    "greater": ("{0} > {1}", "bool"),
    "greater_equal": ("{0} >= {1}", "bool"),
    "equal": ("{0} == {1}", "bool"),
    "not_equal": ("{0} != {1}", "bool"),
}
LOGICAL = {"logical_and": "{0} && {1}", "logical_or": "{0} || {1}", "logical_xor": "{0} != {1}", "logical_not": "!{0}"}
PRIMITIVES = "hardtanh leaky_relu relu sigmoid".split()  # whose default bodies are of the above


class Unfit(TypeError):
    """What is no function of elements."""


class Element:
    """An array in a region: a name or an expression in C++, with what it was made of."""

    __hash__ = None  # type: ignore[assignment]  # == is an operator

    def __init__(self, text: str, dtype: Any, shape: tuple[int, ...], of: Sequence[Element] = (), line: str = ""):
        self.text = text
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.of = of
        self.line = line  # the statement that computes it; "" for inputs and numbers

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def astype(self, dtype: Any, copy: bool = True) -> Element:
        """As another dtype: the casts of a plan call this."""
        return _astype(self, dtype)

    def __bool__(self) -> bool:
        raise Unfit("a value is asked for")


def _operator(name: str, *, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def apply(self: Any, other: Any) -> Any:
        return _noted(name, other, self) if swapped else _noted(name, self, other)

    return apply


for _symbol, _name in (
    ("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide"), ("pow", "pow"),
    ("and", "logical_and"), ("or", "logical_or"), ("xor", "logical_xor"),
):  # fmt: skip
    setattr(Element, f"__{_symbol}__", _operator(_name))
    setattr(Element, f"__r{_symbol}__", _operator(_name, swapped=True))
for _symbol, _name in (
    ("lt", "less"), ("le", "less_equal"), ("gt", "greater"), ("ge", "greater_equal"), ("eq", "equal"),
    ("ne", "not_equal"),
):  # fmt: skip
    setattr(Element, f"__{_symbol}__", _operator(_name))
for _symbol, _name in (("neg", "negative"), ("abs", "abs"), ("invert", "logical_not")):
    setattr(Element, f"__{_symbol}__", lambda self, name=_name: _noted(name, self))


class _Now(threading.local):
    """The region that this thread runs on elements."""

    count: int | None = None  # of the statements


_now = _Now()


def _made(expression: str, dtype: Any, of: Sequence[Element]) -> Element:
    """The result of a statement."""
    assert _now.count is not None
    _now.count += 1
    name, kind = f"t{_now.count}", TYPES[np.dtype(dtype).name]
    shape = np.broadcast_shapes(*(x.shape for x in of))
    return Element(name, dtype, shape, of, f"{kind} {name} = {expression};")


def _number(value: Any, dtype: Any) -> Element:
    """A number as an element of a dtype."""
    name = np.dtype(dtype).name
    if name not in (*FLOATS, "bool") or isinstance(value, complex):
        raise Unfit(f"a number of {name}")
    if name == "bool":
        return Element("true" if value else "false", dtype, ())
    if not isfinite(value):
        raise Unfit(f"{value}, for which C++ has no literal")
    return Element(f"({TYPES[name]})({float(value)!r})", dtype, ())


def _like(values: Sequence[Any]) -> list[Element]:
    """Arguments as elements of one dtype: numbers take that of the others. Raises Unfit where there are two."""
    known = {x.dtype.name for x in values if isinstance(x, Element)}
    if len(known) != 1:
        raise Unfit(f"dtypes {', '.join(sorted(known))}")
    (name,) = known
    if any(not isinstance(x, Element | bool | int | float) for x in values):
        raise Unfit("an array that is no element")
    return [x if isinstance(x, Element) else _number(x, name) for x in values]


def _noted(name: str, *values: Any) -> Element:
    """The result of a function in the tables above."""
    if name in LOGICAL:
        given = _like(values)
        if given[0].dtype != np.bool_:
            raise Unfit(f"{name} of {given[0].dtype}")
        return _made(LOGICAL[name].format(*(x.text for x in given)), np.bool_, given)
    expression, dtype = (UNARY if len(values) == 1 else BINARY)[name]
    given = _like(values)
    if given[0].dtype.name not in FLOATS:
        raise Unfit(f"{name} of {given[0].dtype}")
    return _made(expression.format(*(f"({x.text})" for x in given)), dtype or given[0].dtype, given)


def _where(condition: Any, x: Any, y: Any) -> Element:
    (x, y), (condition,) = _like([x, y]), _like([condition])
    if condition.dtype != np.bool_:
        raise Unfit(f"where of {condition.dtype}")
    return _made(f"{condition.text} ? {x.text} : {y.text}", x.dtype, [condition, x, y])


def _clip(x: Any, min: Any = None, max: Any = None) -> Element:
    for name, bound in (("maximum", min), ("minimum", max)):
        x = x if bound is None else _noted(name, x, bound)
    found: Element = x
    return found


def _astype(x: Element, dtype: Any) -> Element:
    there = np.dtype(dtype).name
    if there not in TYPES or (there == "bool" and x.dtype.name == "float16"):
        raise Unfit(f"{x.dtype} as {there}")
    text = f"({TYPES[x.dtype.name]})0 != {x.text}" if there == "bool" else f"({TYPES[there]})({x.text})"
    return x if x.dtype.name == there else _made(text, dtype, [x])


def _full_like(x: Element, value: Any, *, dtype: Any = None) -> Element:
    number = _number(value, x.dtype if dtype is None else dtype)
    return Element(number.text, number.dtype, x.shape)


@cache
def namespace(xp: Namespace) -> Namespace:
    """The library's, whose functions note what is done with elements, and do with arrays what they did."""
    noting: dict[str, Callable[..., Any]] = {name: partial(_noted, name) for name in (*UNARY, *BINARY, *LOGICAL)}
    noting |= {"where": _where, "clip": _clip, "astype": _astype, "full_like": _full_like}
    noting |= {f"{name}_like": partial(_full_like, value=value) for name, value in (("zeros", 0), ("ones", 1))}
    found = Namespace(xp.library, vars(xp))
    noting |= {name: partial(default.DEFAULTS[name], found) for name in PRIMITIVES}
    for name, fn in noting.items():
        found.__dict__[name] = partial(_either, fn, getattr(xp, name))

    def asarray(obj: Any, **given: Any) -> Any:
        if _now.count is None or not isinstance(obj, bool | int | float) or "dtype" not in given:
            return xp.asarray(obj, **given)
        return _number(obj, given["dtype"])

    found.__dict__["asarray"] = asarray
    return found


def _either(noting: Callable[..., Any], computing: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    if _now.count is None:
        return computing(*args, **keywords)
    return noting(*args, **keywords)


class Elementwise(Compiler):
    """Compiles regions of `OPERATORS`."""

    eager: ClassVar[bool] = True

    def takes(self, op_type: str) -> bool:
        return op_type in OPERATORS

    def within(self, xp: Namespace) -> Namespace:
        return namespace(xp)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return Fused(fn)


class Fused:
    """A region: a kernel for each shape of results, made for the shapes and dtypes of the arguments."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.made: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """The region's results."""
        key = tuple((x.dtype, x.shape) if isinstance(x, cupy.ndarray) else None for x in arrays)
        if (made := self.made.get(key)) is None:
            if len(self.made) >= KEPT:
                self.made = {}
            made = self.made[key] = self._compiled(arrays)
        found: tuple[Any, ...] = made(*arrays)
        return found

    def _compiled(self, arrays: Sequence[Any]) -> Callable[..., Any]:
        try:
            given = [_input(index, x) for index, x in enumerate(arrays)]
            results = _run(self.fn, given)
            if len(_statements(results)) < 2:
                return self.fn  # one launch as it is
            launch = partial(_launch, _kernels(results, given), _places(results, given))
            launch(*arrays)
        except Unfit:
            return self.fn
        except cupy.cuda.compiler.CompileException as error:
            log.warning("compile: a region of functions of elements runs as it is, for NVRTC says: %s", error)
            return self.fn
        return launch


def _input(index: int, x: Any) -> Element:
    if not isinstance(x, cupy.ndarray) or x.dtype.name not in TYPES:
        raise Unfit("an argument that is no array of numbers")
    return Element(f"x{index}", x.dtype, x.shape)


def _run(fn: Callable[..., Any], given: Sequence[Element]) -> list[Element]:
    """The results of a region on elements. Raises Unfit where one is none."""
    before, _now.count = _now.count, 0
    try:
        results = list(fn(*given))
    except Exception as error:  # what is wrong with arrays, they will say themselves
        raise Unfit(str(error)) from error
    finally:
        _now.count = before
    if not all(isinstance(x, Element) and (x.line or _place(x, given) is not None) for x in results):
        raise Unfit("a result that is no element")
    return results


def _place(x: Element, given: Sequence[Element]) -> int | None:
    return next((index for index, y in enumerate(given) if x is y), None)


def _places(results: Sequence[Element], given: Sequence[Element]) -> list[int | None]:
    """Of results that are arguments, which."""
    return [_place(x, given) for x in results]


def _behind(results: Sequence[Element]) -> list[Element]:
    """All that results were made of, and they."""
    found: dict[int, Element] = {}
    left = list(results)
    while left:
        x = left.pop()
        if id(x) not in found:
            found[id(x)] = x
            left += x.of
    return list(found.values())


def _statements(results: Sequence[Element]) -> list[Element]:
    """The statements behind results, in their order."""
    return sorted((x for x in _behind(results) if x.line), key=lambda x: int(x.text[1:]))


Kernel = tuple[Any, list[int], list[int]]  # with the positions of its arguments, and those of its results


def _kernels(results: Sequence[Element], given: Sequence[Element]) -> list[Kernel]:
    """One for the results of each shape. Raises Unfit where its arguments have another one together."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for position, x in enumerate(results):
        if x.line:
            shapes.setdefault(x.shape, []).append(position)
    kernels: list[Kernel] = []
    for shape, positions in shapes.items():
        wanted = [results[position] for position in positions]
        behind = {id(x) for x in _behind(wanted)}
        read = [index for index, x in enumerate(given) if id(x) in behind]
        if np.broadcast_shapes(*(given[index].shape for index in read)) != shape:
            raise Unfit("results of a shape of their own")
        code = [x.line for x in _statements(wanted)] + [f"y{n} = {x.text};" for n, x in enumerate(wanted)]
        taken = ", ".join(f"{given[index].dtype.name} x{index}" for index in read)
        made = ", ".join(f"{x.dtype.name} y{n}" for n, x in enumerate(wanted))
        text = "\n".join(code)
        header = HALF if "float16" in text else ""
        # x * x - x * x is 0, as it is kernel by kernel: no product goes on to a sum unrounded
        kernel = cupy.ElementwiseKernel(taken, made, text, "ortlite_region", preamble=header, options=("--fmad=false",))
        kernels.append((kernel, read, positions))
    return kernels


def _launch(kernels: Sequence[Kernel], places: Sequence[int | None], *arrays: Any) -> tuple[Any, ...]:
    results = [None if place is None else arrays[place] for place in places]
    for kernel, read, positions in kernels:
        made = kernel(*(arrays[index] for index in read))
        for position, y in zip(positions, made if len(positions) > 1 else (made,), strict=True):
            results[position] = y
    return tuple(results)
