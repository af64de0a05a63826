"""Numbers to few bits and back in one pass, and products with weights that are packed in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from ortlite.derived import at_once, lasting
from ortlite_numpy import quant as dense
from ortlite_numpy.compiled.functions import larger, smaller
from ortlite_numpy.compiled.jit import FREE, foreign_team, loops, own, owned, share
from ortlite_numpy.compiled.qlinear import matmul_integer_to_float
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.record import numpy as np

MS = "com.microsoft"
ELEMENT = 0.6e-9  # seconds
F = np.float32
ROUND = F(12582912.0)  # 1.5 · 2^23: what is added to it is rounded, half to even
FAR = F(200_000)  # beyond all integers of 16 bits, within what ROUND rounds
WHOLE = ("uint8", "int8", "uint16", "int16")


@loops()
def quantised(x, scale, zero, low, high):
    """X / scale, rounded half to even, plus the zero point, between two bounds; NaN gives 0."""
    v = x / scale
    nan = v != v
    v = smaller(larger(v, -FAR), FAR)
    v = smaller(larger((v + ROUND) - ROUND + zero, low), high)
    return F(0) if nan else v


@loops()
def quantise_rows(x, scale, zero, low, high, y, start, stop):
    """Rows [start, stop) of x, those with the same number modulo that of scales by one scale."""
    for r in range(start, stop):
        s, z = scale[r % scale.size], F(zero[r % scale.size])
        row, out = x[r], y[r]
        for i in range(row.size):
            out[i] = np.int32(quantised(row[i], s, z, low, high))


@loops()
def quantise_columns(x, scale, zero, low, high, y, start, stop):
    """The same with a scale for every column."""
    for r in range(start, stop):
        row, out = x[r], y[r]
        for i in range(row.size):
            out[i] = np.int32(quantised(row[i], scale[i], F(zero[i]), low, high))


@loops()
def dequantise_rows(x, scale, zero, y, start, stop):
    """Rows [start, stop) of integers less their zero points times their scales, as for `quantise_rows`."""
    for r in range(start, stop):
        s, z = scale[r % scale.size], np.int32(zero[r % scale.size])
        row, out = x[r], y[r]
        for i in range(row.size):
            out[i] = F(np.int32(np.int32(row[i]) - z)) * s


@loops()
def dequantise_columns(x, scale, zero, y, start, stop):
    """The same with a scale for every column."""
    for r in range(start, stop):
        row, out = x[r], y[r]
        for i in range(row.size):
            out[i] = F(np.int32(np.int32(row[i]) - np.int32(zero[i]))) * scale[i]


@loops()
def extremes(x):
    """The smallest and the largest element, both extended to hold 0; NaN where there is one."""
    low, high = F(0), F(0)
    for i in range(x.size):
        low = smaller(low, x[i])
        high = larger(high, x[i])
    return low, high


def _rows(x: Any, scale: Any, axis: int) -> tuple[int, int, bool] | None:
    """Rows and columns of x, and whether the scales are by column; None for scales that are neither one nor by axis."""
    if prod(scale.shape) == 1:
        width = x.shape[-1] if x.ndim else 1
        return x.size // max(width, 1), width, False
    if scale.ndim != 1 or not -x.ndim <= axis < x.ndim or scale.shape[0] != x.shape[axis]:
        return None
    axis %= x.ndim
    inner = prod(x.shape[axis + 1 :])
    return (x.size // scale.size, scale.size, True) if inner == 1 else (x.size // inner, inner, False)


def flat(v: Any) -> Any:
    """A scale or zero point as a vector that kernels take."""
    return own(np.asarray(v).reshape(-1))


def nothing(scale: Any, dtype: Any) -> Any:
    """Zero points that change nothing."""
    return np.zeros(prod(scale.shape), dtype)


def _to_whole(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for kind in WHOLE[:2]:
        x = np.zeros((2, 2), dtype)
        yield (x, np.ones((), dtype), np.zeros((), kind)), {}
        yield (x, np.ones(2, dtype), np.zeros(2, kind)), {}


@override("QuantizeLinear", since=10, examples=_to_whole)
def quantize_linear(
    xp: Any,
    x: Any,
    y_scale: Any,
    y_zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Any = None,
    precision: Any = None,
    saturate: int = 1,
    derived: Any = at_once,
) -> Any:
    """In one pass, to integers of 8 and 16 bits."""
    to = y_zero_point.dtype.name if y_zero_point is not None else output_dtype.name if output_dtype else "uint8"
    if x.dtype.char != "f" or y_scale.dtype.char != "f" or block_size or precision is not None or to not in WHOLE:
        return NotImplemented
    if y_zero_point is not None and y_zero_point.shape != y_scale.shape:
        return NotImplemented
    if not x.size or (found := _rows(x, y_scale, axis)) is None:
        return NotImplemented
    rows, width, by_column = found
    scale = derived(flat, y_scale)
    zero = nothing(y_scale, to) if y_zero_point is None else derived(flat, y_zero_point)
    y = np.empty((rows, width), to)
    limits = np.iinfo(y.dtype)
    args = (own(x).reshape(rows, width), scale, zero, F(limits.min), F(limits.max), y)
    share(xp, quantise_columns if by_column else quantise_rows, args, rows, x.size * ELEMENT)
    return y.reshape(x.shape)


def _from_whole(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x = np.zeros((2, 2), dtype)
    yield (x, np.ones((), F), np.zeros((), dtype)), {}
    yield (x, np.ones(2, F), np.zeros(2, dtype)), {}


@override("DequantizeLinear", since=10, examples=_from_whole, dtypes=(*WHOLE, "int32"))
def dequantize_linear(
    xp: Any,
    x: Any,
    x_scale: Any,
    x_zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Any = None,
    derived: Any = at_once,
) -> Any:
    """In one pass, from integers of up to 32 bits."""
    if x.dtype.name not in {*WHOLE, "int32"} or x_scale.dtype.char != "f" or block_size or not x.size:
        return NotImplemented
    if output_dtype is not None and output_dtype.name != "float32":
        return NotImplemented
    if x_zero_point is not None and (x_zero_point.shape != x_scale.shape or x_zero_point.dtype != x.dtype):
        return NotImplemented
    if (found := _rows(x, x_scale, axis)) is None:
        return NotImplemented
    rows, width, by_column = found
    zero = nothing(x_scale, x.dtype) if x_zero_point is None else derived(flat, x_zero_point)
    y = np.empty((rows, width), F)
    args = (own(x).reshape(rows, width), derived(flat, x_scale), zero, y)
    share(xp, dequantise_columns if by_column else dequantise_rows, args, rows, x.size * ELEMENT)
    return y.reshape(x.shape)


MANY = 1 << 15  # elements from which on threads share a tensor
LARGE = 1 << 13  # elements of a constant matrix from which on bytes are multiplied as they are


@loops()
def steps_of(low, high):
    """The scale and the zero point by which a range fills 0 to 255; NaN gives NaN and 0."""
    scale = F(high - low) / F(255)
    scale = F(1) if scale == 0 else scale
    zero = F(-low) / scale
    zero = F(0) if zero != zero else smaller(larger((smaller(zero, FAR) + ROUND) - ROUND, F(0)), F(255))
    return scale, zero


@loops()
def quantise_all(x, y, scale, zero):
    """All of x by its own range: y, the one scale and the one zero point."""
    low, high = extremes(x)
    s, z = steps_of(low, high)
    scale[0], zero[0] = s, np.int32(z)
    for i in range(x.size):
        y[i] = np.int32(quantised(x[i], s, z, F(0), F(255)))


@loops()
def centre_all(x, y, scale):
    """All of x as `quantise_all` has it, less the zero point, as floats; and the one scale."""
    low, high = extremes(x)
    s, z = steps_of(low, high)
    scale[0] = s
    for i in range(x.size):
        y[i] = quantised(x[i], s, z, F(0), F(255)) - z


@loops()
def scale_rows(y, a_scale, b_scale, bias, start, stop):
    """Rows [start, stop) of y times both scales, of which B's may be one a column, plus the bias, if any, in place."""
    for r in range(start, stop):
        row = y[r]
        if b_scale.size == 1:
            s = a_scale[0] * b_scale[0]
            for i in range(row.size):
                row[i] = row[i] * s
        else:
            for i in range(row.size):
                row[i] = row[i] * (a_scale[0] * b_scale[i])
        if bias.size:
            for i in range(row.size):
                row[i] = row[i] + bias[i]


def _one(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-1, 1, 8, dtype=dtype),), {}
    yield (np.linspace(-1, 1, MANY, dtype=dtype),), {}


@override("DynamicQuantizeLinear", since=11, examples=_one)
def dynamic_quantize_linear(xp: Any, x: Any) -> Any:
    """In two passes: the range, then the numbers."""
    if x.dtype.char != "f" or not x.size or not x.ndim:
        return NotImplemented
    x = own(x)
    if x.size < MANY:
        y, scale, zero = np.empty(x.shape, np.uint8), np.empty(1, F), np.empty(1, np.uint8)
        quantise_all(x.reshape(-1), y.reshape(-1), scale, zero)
        return y, scale.reshape(()), zero.reshape(())
    low, high = extremes(x.reshape(-1))
    step, start = steps_of(F(low), F(high))
    y = np.empty((x.size // x.shape[-1], x.shape[-1]), np.uint8)
    scale, zero = np.array([step], F), np.array([start], np.uint8)
    share(xp, quantise_rows, (x.reshape(y.shape), scale, zero, F(0), F(255), y), len(y), x.size * ELEMENT)
    return y.reshape(x.shape), scale.reshape(()), zero.reshape(())


def _product(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    a, b, one = np.ones((2, 4), dtype), np.ones((4, 3), np.int8), np.ones(1, F)
    for scale, bias in ((one, None), (np.ones(3, F), np.ones(3, F))):
        yield (a, b, scale, np.zeros(1, np.int8), bias), {}
    yield (np.ones((MANY // 4, 4), dtype), b, one), {}


@override((MS, "DynamicQuantizeMatMul", 1), examples=_product)
def dynamic_quantize_matmul(
    xp: Any, A: Any, B: Any, b_scale: Any, b_zero_point: Any = None, bias: Any = None, *, derived: Any = at_once
) -> Any:
    """Whole numbers as floats from the beginning, and the product scaled in one pass."""
    depth, columns = B.shape if B.ndim == 2 else (0, 0)
    if A.dtype.char != "f" or A.ndim < 2 or not A.size or A.shape[-1] != depth or B.dtype not in dense.BYTES:
        return NotImplemented
    if b_scale.dtype.char != "f" or b_scale.shape not in {(), (1,), (columns,)} or not columns:
        return NotImplemented
    if b_zero_point is not None and (b_zero_point.dtype != B.dtype or b_zero_point.shape not in {(), (1,), (columns,)}):
        return NotImplemented
    if bias is not None and (bias.dtype.char != "f" or bias.shape != (columns,)):
        return NotImplemented
    if A.size >= MANY or (B.size >= LARGE and lasting(derived, B)):
        quantised = dynamic_quantize_linear(xp, A)
        y = matmul_integer_to_float(
            xp, quantised[0], B, quantised[1], b_scale, quantised[2], b_zero_point, bias, derived=derived
        )
        if y is not NotImplemented or foreign_team(xp) is not None:
            return y
        return dense.matmul_integer_to_float(
            xp, quantised[0], B, quantised[1], b_scale, quantised[2], b_zero_point, bias, derived=derived
        )
    if foreign_team(xp) is not None:  # whose library has products of its own
        return NotImplemented
    x, left, scale = own(A), np.empty(A.shape, F), np.empty(1, F)
    centre_all(x.reshape(-1), left.reshape(-1), scale)
    wide, bound = derived(dense.by_column, B, b_zero_point)
    total = dense.product_in_parts(left, wide, bound, getattr(xp, "threads", 1))
    y = own(total if total.dtype.char == "f" else total.astype(F))
    added = np.empty(0, F) if bias is None else derived(flat, bias)
    rows = y.size // columns
    args = (y.reshape(rows, columns), scale, derived(flat, b_scale), added)
    share(xp, scale_rows, args, rows, y.size * ELEMENT)
    return y


@loops(FREE)
def packed_rows(even, odd, B, scales, zeros, y, start, stop):
    """Columns [start, stop) of the product of rows with 4-bit weights B (N, blocks, bytes), low bits first.

    The rows come as their even and odd elements (M, blocks, bytes).
    """
    blocks, count = B.shape[1], B.shape[2]
    lanes = np.empty(count, F)
    for n in range(start, stop):
        for m in range(even.shape[0]):
            for i in range(count):
                lanes[i] = F(0)
            for b in range(blocks):
                scale, zero = scales[n, b], zeros[n, b]
                row, e, o = B[n, b], even[m, b], odd[m, b]
                for i in range(count):
                    v = np.int32(row[i])
                    lanes[i] += ((F(v & np.int32(15)) - zero) * e[i] + (F(v >> np.int32(4)) - zero) * o[i]) * scale
            total = F(0)
            for i in range(count):
                total += lanes[i]
            y[m, n] = total


@loops()
def unpack_rows(B, scales, zeros, W, start, stop):
    """Rows [start, stop) of 4-bit weights as floats: W (N, blocks, 2 · bytes)."""
    for n in range(start, stop):
        for b in range(B.shape[1]):
            scale, zero = scales[n, b], zeros[n, b]
            row, out = B[n, b], W[n, b]
            for i in range(row.size):
                v = np.int32(row[i])
                out[2 * i] = (F(v & np.int32(15)) - zero) * scale
                out[2 * i + 1] = (F(v >> np.int32(4)) - zero) * scale


def zeros_of(zero_points: Any, N: int, blocks: int) -> Any:
    """Packed zero points as floats, one a block."""
    z = np.asarray(zero_points).reshape(N, -1)
    return np.ascontiguousarray(np.stack([z & 15, z >> 4], axis=-1).reshape(N, -1)[:, :blocks].astype(F))


def _packed(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for rows in (1, 9):
        weights, scale = np.zeros((2, 1, 8), np.uint8), np.ones(2, F)
        yield (np.zeros((rows, 16), dtype), weights, scale), {"K": 16, "N": 2, "block_size": 16, "bits": 4}


FEW = 4  # rows up to which weights are multiplied as they are


@override((MS, "MatMulNBits", 1), examples=_packed)
def matmul_nbits(
    xp: Any,
    A: Any,
    B: Any,
    scales: Any,
    zero_points: Any = None,
    g_idx: Any = None,
    bias: Any = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
    derived: Any = at_once,
) -> Any:
    """4-bit weights: a few rows are multiplied with them as they are packed, many with what a call unpacks."""
    blocks = -(-K // block_size)
    plain = bits == 4 and g_idx is None and not weight_prepacked and A.dtype.char == scales.dtype.char == "f"
    if (
        not plain
        or A.shape[-1] != K
        or not A.size
        or B.size != N * blocks * block_size // 2
        or scales.size != N * blocks
    ):
        return NotImplemented
    if B.dtype != np.uint8 or block_size % 2 or (zero_points is not None and zero_points.dtype != np.uint8):
        return NotImplemented
    if bias is not None and (bias.shape != (N,) or bias.dtype.char != "f"):
        return NotImplemented
    count = block_size // 2
    if zero_points is None:
        zeros = np.full((N, blocks), F(8))
    elif zero_points.size == N * -(-blocks // 2):
        zeros = derived(zeros_of, zero_points, N, blocks)
    else:
        return NotImplemented
    weights, scale = owned(B, derived).reshape(N, blocks, count), owned(scales, derived).reshape(N, blocks)
    x = own(A).reshape(-1, K)
    rows = len(x)
    if rows <= FEW:
        if K % block_size:
            x = np.concatenate([x, np.zeros((rows, blocks * block_size - K), F)], axis=1)
        halves = x.reshape(rows, blocks, count, 2)
        even, odd = np.ascontiguousarray(halves[..., 0]), np.ascontiguousarray(halves[..., 1])
        y = np.empty((rows, N), F)
        args = (even, odd, weights, scale, zeros, y)
        share(xp, packed_rows, args, N, rows * N * K * 0.25e-9)
    else:
        W = np.empty((N, blocks, block_size), F)
        share(xp, unpack_rows, (weights, scale, zeros, W), N, N * K * ELEMENT)
        y = np.matmul(x, W.reshape(N, -1)[:, :K].T)
    if bias is not None:
        y += bias
    return y.reshape(*A.shape[:-1], N)
