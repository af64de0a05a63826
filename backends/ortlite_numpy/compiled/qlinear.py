"""Products of bytes with constant matrices, and operators between bytes, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from ortlite.derived import Derived, at_once, lasting
from ortlite_numpy.compiled import integers
from ortlite_numpy.compiled.functions import larger, smaller
from ortlite_numpy.compiled.jit import Loops, loops, own, share, with_names
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.layout import inverse, order_of
from ortlite_numpy.record import numpy as np

MS = "com.microsoft"
F = np.float32
BYTES = ("uint8", "int8")
ELEMENT = 0.4e-9  # seconds
ROUND = integers.ROUND
EXACT = integers.AS_WRITTEN
FEW_ROWS = 48  # up to which threads share out the columns of a product


def matrix(b: Any, zero: Any, turned: int) -> Any:
    """`b`, or its transpose, less its zero points in 16 bits: (1, depth, columns)."""
    y = (b.T if turned else b).astype(np.int16)
    return (y if zero is None else y - zero.astype(np.int16).reshape(1, -1))[None]


def panels(b: Any, zero: Any, turned: int) -> Any:
    """A matrix in panels."""
    y = matrix(b, zero, turned)
    return integers.packed(y, integers.word_type(y))


def totals(b: Any, zero: Any, turned: int) -> Any:
    """The sums of columns, negative, for whole panels."""
    return integers.totals(matrix(b, zero, turned))


def bias_of(bias: Any, columns: int) -> Any:
    """A bias of int32 for whole panels."""
    return integers.filled(bias.reshape(-1), columns, np.int32)


def scales_of(scale: Any, columns: int) -> Any:
    """One scale, or one a column, for whole panels."""
    return integers.filled(scale.reshape(-1), columns, F)


def fits(a: Any, b: Any, a_zero: Any, b_zero: Any, turned: int, derived: Any) -> bool:
    """Whether `a` (…, depth) has one zero point at most, and `b` is a constant matrix with one, or one a column."""
    if a.dtype.name not in BYTES or b.dtype.name not in BYTES or b.ndim != 2 or a.ndim < 2 or 0 in {*a.shape, *b.shape}:
        return False
    depth, columns = b.shape[::-1] if turned else b.shape
    for v, dtype, sizes in ((a_zero, a.dtype, {1}), (b_zero, b.dtype, {1, columns})):
        if v is not None and (v.dtype != dtype or v.ndim > 1 or v.size not in sizes):
            return False
    return a.shape[-1] == depth and lasting(derived, b) and (b_zero is None or lasting(derived, b_zero))


def multiplied(
    xp: Any, to: str, a: Any, a_zero: Any, b: Any, b_zero: Any, turned: int, bias: Any, finish: tuple[Any, ...],
    dtype: Any, derived: Any,
) -> Any:  # fmt: skip
    """The sums of the product, plus `bias` for whole panels, finished."""
    columns = b.shape[0] if turned else b.shape[1]
    flip = 128 if a.dtype.name == "int8" else 0
    start = derived(totals, b, b_zero, turned)
    if a_zero is not None:
        zero = a_zero.astype(np.int32).reshape(())
        start = start * (zero + np.int32(flip) if flip else zero)
    else:
        start = start * np.int32(flip)
    start = start if bias is None else start + bias
    rows = a.size // a.shape[-1]
    y = np.empty((*a.shape[:-1], columns), dtype)
    x = own(a.view(np.uint8)).reshape(1, 1, rows, a.shape[-1])
    place = (ONE, STEPS, 1, 1, rows)
    integers.multiply(
        xp, to, x, False, flip, 0, place, derived(panels, b, b_zero, turned), own(start), finish, y.reshape(-1),
        columns, rows <= FEW_ROWS,
    )  # fmt: skip
    return y


ONE, STEPS = np.ones(2, np.int64), np.array([1, 1, 1, 1, 0, 0], np.int64)


def _matrices(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any, Any, Any]]:
    for kind in BYTES:
        b, b_zero = np.zeros((4, 3), kind), np.zeros((), kind)
        yield np.zeros((2, 4), dtype), np.zeros((), dtype), b, b_zero, Derived([b, b_zero])


def _integers(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for a, zero, b, _, derived in _matrices(dtype, attributes):
        yield (a, b, zero), {"derived": derived}


@override("MatMulInteger", since=10, examples=_integers, dtypes=BYTES)
def matmul_integer(
    xp: Any, A: Any, B: Any, a_zero_point: Any = None, b_zero_point: Any = None, *, derived: Any = at_once
) -> Any:
    """With a constant matrix, in its panels."""
    if not fits(A, B, a_zero_point, b_zero_point, 0, derived):
        return NotImplemented
    none = integers.nothing(B.shape[1])
    finish = (none, none, F(0), F(0), np.int32(0))
    return multiplied(xp, "int32", A, a_zero_point, B, b_zero_point, 0, None, finish, np.int32, derived)


def _floats(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    one = np.ones((), F)
    for a, zero, b, b_zero, derived in _matrices(dtype, attributes):
        for bias in (None, np.zeros(3, F)):
            yield (a, b, one, one, zero, b_zero, bias), {"derived": derived}


@override((MS, "MatMulIntegerToFloat", 1), examples=_floats, dtypes=BYTES)
def matmul_integer_to_float(
    xp: Any,
    A: Any,
    B: Any,
    a_scale: Any,
    b_scale: Any,
    a_zero_point: Any = None,
    b_zero_point: Any = None,
    bias: Any = None,
    *,
    derived: Any = at_once,
) -> Any:
    """With a constant matrix, in its panels; scaled while the sums are in the cache."""
    if not fits(A, B, a_zero_point, b_zero_point, 0, derived) or a_scale.dtype.char != "f" or a_scale.size != 1:
        return NotImplemented
    columns = B.shape[1]
    if b_scale.dtype.char != "f" or b_scale.ndim > 1 or b_scale.size not in {1, columns}:
        return NotImplemented
    if bias is not None and (bias.dtype.char != "f" or bias.shape != (columns,)):
        return NotImplemented
    factor = derived(scales_of, b_scale, columns) * a_scale.reshape(())
    added = integers.nothing(columns) if bias is None else derived(scales_of, bias, columns)
    finish = (own(factor), added, F(0), F(0), np.int32(0))
    to = "floats" if bias is None else "biased"
    return multiplied(xp, to, A, a_zero_point, B, b_zero_point, 0, None, finish, F, derived)


def _bytes(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    one = np.ones((), F)
    for a, zero, b, b_zero, derived in _matrices(dtype, attributes):
        yield (a, one, zero, b, one, b_zero, one, zero), {"derived": derived}


def factor_of(a_scale: Any, b_scale: Any, y_scale: Any, columns: int) -> Any:
    """What sums are multiplied by: one a column."""
    return integers.filled((a_scale.reshape(()) * b_scale.reshape(-1) / y_scale.reshape(())).astype(F), columns, F)


def _quantises(a_scale: Any, b_scale: Any, y_scale: Any, y_zero: Any, columns: int) -> bool:
    """Whether a result of bytes has scales and a zero point that kernels take."""
    scales = all(v.dtype.char == "f" for v in (a_scale, b_scale, y_scale)) and a_scale.size == y_scale.size == 1
    return scales and b_scale.ndim < 2 and b_scale.size in {1, columns} and y_zero.dtype.name in BYTES


@override("QLinearMatMul", since=10, examples=_bytes, dtypes=BYTES)
def qlinear_matmul(
    xp: Any,
    a: Any,
    a_scale: Any,
    a_zero_point: Any,
    b: Any,
    b_scale: Any,
    b_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    *,
    derived: Any = at_once,
) -> Any:
    """With a constant matrix, in its panels; finished while the sums are in the cache."""
    if not fits(a, b, a_zero_point, b_zero_point, 0, derived):
        return NotImplemented
    if not _quantises(a_scale, b_scale, y_scale, y_zero_point, b.shape[1]) or y_zero_point.size != 1:
        return NotImplemented
    factor = derived(factor_of, a_scale, b_scale, y_scale, b.shape[1])
    finish = (factor, factor, *derived(integers.limits, y_zero_point))
    return multiplied(xp, "bytes", a, a_zero_point, b, b_zero_point, 0, None, finish, y_zero_point.dtype, derived)


def _gemms(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    given = {k: v for k, v in attributes.items() if k == "transB"}
    one = np.ones((), F)
    for a, zero, b, w_zero, _ in _matrices(dtype, attributes):
        w = np.ascontiguousarray(b.T) if given.get("transB") else b
        known = {**given, "derived": Derived([w, w_zero])}
        yield (a, one, zero, w, one, w_zero, None, one, zero), known
        yield (a, one, zero, w, one, w_zero), known


@override((MS, "QGemm", 1), examples=_gemms, dtypes=BYTES)
def qgemm(
    xp: Any,
    A: Any,
    a_scale: Any,
    a_zero_point: Any,
    B: Any,
    b_scale: Any,
    b_zero_point: Any,
    C: Any = None,
    y_scale: Any = None,
    y_zero_point: Any = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    derived: Any = at_once,
) -> Any:
    """With a constant matrix, in its panels; finished while the sums are in the cache."""
    if transA or alpha != 1.0 or A.ndim != 2 or not fits(A, B, a_zero_point, b_zero_point, transB, derived):
        return NotImplemented
    columns = B.shape[0] if transB else B.shape[1]
    if C is not None and (C.dtype.name != "int32" or C.shape not in {(columns,), (1, columns)}):
        return NotImplemented
    zero = y_zero_point
    quantised = y_scale is not None
    if quantised and (zero is None or zero.size != 1):
        return NotImplemented
    if not _quantises(a_scale, b_scale, y_scale if quantised else a_scale, zero if quantised else A, columns):
        return NotImplemented
    bias = None if C is None else derived(bias_of, C, columns)
    if not quantised:
        factor = derived(scales_of, b_scale, columns) * a_scale.reshape(())
        finish = (own(factor), integers.nothing(columns), F(0), F(0), np.int32(0))
        return multiplied(xp, "floats", A, a_zero_point, B, b_zero_point, transB, bias, finish, F, derived)
    factor = derived(factor_of, a_scale, b_scale, y_scale, columns)
    finish = (factor, factor, *derived(integers.limits, zero))
    return multiplied(xp, "bytes", A, a_zero_point, B, b_zero_point, transB, bias, finish, zero.dtype, derived)


def function(a: Any, b: Any) -> Any:
    """Stands for the operation between two numbers in the kernels below."""


@loops(EXACT)
def each(a, b, a_scale, a_zero, b_scale, b_zero, y_scale, low, high, zero, y, start, stop):
    """Y = function(a, b) of two stretches of bytes of one length; `b` may be a single one."""
    out, left = y[start:stop], a[start:stop]
    if b.size == 1:
        right = F(np.int32(b[0]) - b_zero) * b_scale
        for i in range(out.size):
            v = function(F(np.int32(left[i]) - a_zero) * a_scale, right) / y_scale
            out[i] = np.int32((smaller(larger(v, low), high) + ROUND) - ROUND) + zero
    else:
        other = b[start:stop]
        for i in range(out.size):
            v = function(F(np.int32(left[i]) - a_zero) * a_scale, F(np.int32(other[i]) - b_zero) * b_scale) / y_scale
            out[i] = np.int32((smaller(larger(v, low), high) + ROUND) - ROUND) + zero


@loops(EXACT)
def total(a, b):
    """The sum."""
    return a + b


@loops(EXACT)
def product(a, b):
    """The product."""
    return a * b


EACH: dict[str, Loops] = {
    "add": with_names(each, "each_added", function=total), "mul": with_names(each, "each_multiplied", function=product),
}  # fmt: skip


def _is_number(v: Any) -> bool:
    return bool(v.dtype.char == "f" and v.size == 1)


def between(
    xp: Any, kernel: Loops, A: Any, A_scale: Any, A_zero: Any, B: Any, B_scale: Any, B_zero: Any, C_scale: Any,
    C_zero: Any, derived: Any,
) -> Any:  # fmt: skip
    """The kernel over all elements of two tensors of one shape, or of one and a single number."""
    if A.size == 1 and A.ndim <= B.ndim:  # either order is as good
        A, A_scale, A_zero, B, B_scale, B_zero = B, B_scale, B_zero, A, A_scale, A_zero
    if A.dtype.name not in BYTES or B.dtype != A.dtype or not A.size:
        return NotImplemented
    if not (A.shape == B.shape or (B.size == 1 and B.ndim <= A.ndim)):
        return NotImplemented
    if not all(map(_is_number, (A_scale, B_scale, C_scale))):
        return NotImplemented
    zeros = [v for v in (A_zero, B_zero, C_zero) if v is not None]
    if any(v.dtype != A.dtype or v.size != 1 for v in zeros):
        return NotImplemented
    order = order_of(A)
    a = own(A.transpose(order))
    b = own(B.transpose(order)) if B.shape == A.shape else own(B)
    numbers = [derived(number, v) for v in (A_scale, B_scale, C_scale)]
    a_zero, b_zero = (np.int32(0) if v is None else derived(whole, v) for v in (A_zero, B_zero))
    low, high, zero = integers.limits(np.zeros(1, A.dtype)) if C_zero is None else derived(integers.limits, C_zero)
    y = np.empty(a.shape, A.dtype)
    args = (
        a.reshape(-1), b.reshape(-1), numbers[0], a_zero, numbers[1], b_zero, numbers[2], low, high, zero, y.reshape(-1)
    )  # fmt: skip
    share(xp, kernel, args, A.size, A.size * ELEMENT)
    return y.transpose(inverse(order))


def number(v: Any) -> Any:
    """A scale as a number."""
    return F(v.reshape(-1)[0])


def whole(v: Any) -> Any:
    """A zero point as a number."""
    return np.int32(v.reshape(-1)[0])


def _pairs(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x, one, zero = np.zeros((2, 2), dtype), np.ones((), F), np.zeros((), dtype)
    yield (x, one, zero, x, one, zero, one, zero), {}


@override((MS, "QLinearAdd", 1), examples=_pairs, dtypes=BYTES)
def qlinear_add(
    xp: Any,
    A: Any,
    A_scale: Any,
    A_zero_point: Any,
    B: Any,
    B_scale: Any,
    B_zero_point: Any,
    C_scale: Any,
    C_zero_point: Any = None,
    *,
    derived: Any = at_once,
) -> Any:
    """In one pass."""
    return between(
        xp, EACH["add"], A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point, derived
    )  # fmt: skip


@override((MS, "QLinearMul", 1), examples=_pairs, dtypes=BYTES)
def qlinear_mul(
    xp: Any,
    A: Any,
    A_scale: Any,
    A_zero_point: Any,
    B: Any,
    B_scale: Any,
    B_zero_point: Any,
    C_scale: Any,
    C_zero_point: Any = None,
    *,
    derived: Any = at_once,
) -> Any:
    """In one pass."""
    return between(
        xp, EACH["mul"], A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point, derived
    )  # fmt: skip


@loops()
def add_up_last(x, y, start, stop):
    """Images [start, stop) of x (N, pixels, C), all pixels added up to y (N, C)."""
    for r in range(start, stop):
        row = y[r]
        for p in range(x.shape[1]):
            pixel = x[r, p]
            for c in range(row.size):
                row[c] += np.int32(pixel[c])


@loops()
def add_up_first(x, y, start, stop):
    """Rows [start, stop) of x (N · C, pixels), each added up to an element of y."""
    for r in range(start, stop):
        row = x[r]
        s = np.int32(0)
        for p in range(row.size):
            s += np.int32(row[p])
        y[r] = s


@loops()
def finish_means(s, offset, factor, low, high, zero, y):
    """Sums less an offset, times a factor, as bytes."""
    for i in range(y.size):
        v = smaller(larger(F(s[i] - offset) * factor, low), high)
        y[i] = np.int32((v + ROUND) - ROUND) + zero


def _pooled(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x, one, zero = np.zeros((1, 2, 2, 2), dtype), np.ones((), F), np.zeros((), dtype)
    yield (x, one, zero, one, zero), {}
    yield (np.moveaxis(x, -1, 1), one, zero, one, zero), {}


@override((MS, "QLinearGlobalAveragePool", 1), examples=_pooled, dtypes=BYTES)
def qlinear_global_average_pool(
    xp: Any,
    X: Any,
    x_scale: Any,
    x_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    *,
    channels_last: int = 0,
    derived: Any = at_once,
) -> Any:
    """Exact sums, then one product each."""
    if X.dtype.name not in BYTES or X.ndim < 3 or not X.size or X.size > X.shape[0] * (1 << 22):
        return NotImplemented
    if not _is_number(x_scale) or not _is_number(y_scale):
        return NotImplemented
    if any(v.dtype.name not in BYTES or v.size != 1 for v in (x_zero_point, y_zero_point)):
        return NotImplemented
    x = X if channels_last else X.transpose(0, *range(2, X.ndim), 1)
    n, c = x.shape[0], x.shape[-1]
    pixels = prod(x.shape[1:-1])
    if x.flags.c_contiguous:
        sums = np.zeros((n, c), np.int32)
        share(xp, add_up_last, (own(x).reshape(n, pixels, c), sums), n, X.size * ELEMENT / 4)
    else:
        sums = np.empty((n, c), np.int32)
        rows = own(x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))).reshape(n * c, pixels)
        share(xp, add_up_first, (rows, sums.reshape(-1)), n * c, X.size * ELEMENT / 4)
    offset = derived(whole, x_zero_point) * np.int32(pixels)
    factor = derived(mean_factor, x_scale, y_scale, pixels)
    y = np.empty(n * c, y_zero_point.dtype)
    finish_means(sums.reshape(-1), offset, factor, *derived(integers.limits, y_zero_point), y)
    one = (1,) * (X.ndim - 2)
    return y.reshape((n, *one, c) if channels_last else (n, c, *one))


def mean_factor(x_scale: Any, y_scale: Any, count: int) -> Any:
    """What sums of so many bytes are multiplied by."""
    return F(x_scale.reshape(-1)[0] / F(y_scale.reshape(-1)[0] * F(count)))
