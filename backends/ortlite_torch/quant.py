"""Products of 8-bit integers on torch, exactly, in float32: weights less their zero points are prepared once.

A float32 sum of products is exact while no partial sum reaches 2^24. No partial sum of a column is larger than the sum
of its weights' sizes times 255, the largest that an 8-bit number less its zero point can be.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops import quant
from ortlite.ops.contrib import quant as contrib
from ortlite_torch.onednn import inferring
from ortlite_torch.products import LARGE, PACKS, linear, packed
from ortlite_torch.threads import fit

__all__ = ["OVERRIDES"]

BYTES = {torch.uint8, torch.int8}
LARGEST = 255  # of an 8-bit number less its zero point
EXACT = 1 << 24  # below which float32 holds every integer
CHUNK = 256  # so many products of differences of bytes add up exactly, whatever they are

Part = tuple[int, int, Any, bool]  # first row, the row after the last, these rows of a matrix, whether they are packed


def parts(b: Any, zero: Any, turned: bool, packs: bool) -> tuple[Part, ...]:
    """`b`, transposed where `turned`, less its zero points as float32: rows whose products with bytes are exact."""
    wide = (b.T if turned else b).to(torch.float32)
    if zero is not None:
        wide = wide - zero.to(torch.float32)
    depth = wide.shape[0]
    bound = LARGEST * int(wide.abs().sum(0, dtype=torch.float64).max())
    step = depth if bound < EXACT else CHUNK
    found = []
    for start in range(0, depth, step):
        rows = wide[start : start + step]
        packing = packs and rows.numel() >= LARGE
        found.append((start, start + len(rows), packed(rows, False) if packing else rows.contiguous(), packing))
    return tuple(found)


def integer_product(xp: Namespace, a: Any, a_zero: Any, b: Any, b_zero: Any, derived: Any, turned: int = 0) -> Any:
    """(a - a_zero) @ (b - b_zero) in int32, `b` a constant matrix of 8-bit numbers, or its transpose."""
    if a.dtype not in BYTES or b.dtype not in BYTES or b.ndim != 2 or a.ndim < 2 or 0 in (*a.shape, *b.shape):
        return NotImplemented
    depth, columns = b.shape[::-1] if turned else b.shape
    for v, dtype, shapes in ((a_zero, a.dtype, {(), (1,), (a.shape[-2],)}), (b_zero, b.dtype, {(), (1,), (columns,)})):
        if v is not None and (v.dtype != dtype or tuple(v.shape) not in shapes):
            return NotImplemented
    if a.shape[-1] != depth:
        return NotImplemented  # the kernel says what is wrong
    if torch.compiler.is_compiling() or not all(v is None or lasting(derived, v) for v in (b, b_zero)):
        return NotImplemented
    left = a.to(torch.float32)
    if a_zero is not None:
        left = left - quant.by_row(xp, a_zero).to(torch.float32)
    packs = PACKS and inferring(left)
    rows = left.reshape(-1, depth)
    total: Any = None
    for start, stop, matrix, packing in derived(parts, b, b_zero, bool(turned), packs):
        some = rows if stop - start == depth else rows[:, start:stop].contiguous()
        work = 2 * rows.shape[0] * (stop - start) * columns
        product = (
            fit(linear, work, some)(some, matrix, None, "none", [], "")
            if packing
            else fit(torch.mm, work, some)(some, matrix)
        )
        product = product.to(torch.int32)
        total = product if total is None else total + product
    return total.reshape(*left.shape[:-1], columns)


def _matmul(a: Any, b: Any, dtype: Any) -> Any:
    """`a` @ `b` in int32 for numbers from -255 to 255: in float32, chunk by chunk of what is summed."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] == 0:
        return torch.matmul(a.to(dtype), b.to(dtype))
    total: Any = 0
    for start in range(0, a.shape[-1], CHUNK):
        rows, columns = a[..., start : start + CHUNK], b[..., start : start + CHUNK, :]
        total = total + torch.matmul(rows.to(torch.float32), columns.to(torch.float32)).to(dtype)
    return total


@cache
def _for_bytes(xp: Namespace) -> Namespace:
    return Namespace(xp.library, {**vars(xp), "integer_matmul": _matmul})


def matmul_integer(
    xp: Namespace, A: Any, B: Any, a_zero_point: Any = None, b_zero_point: Any = None, *, derived: Any = at_once
) -> Any:
    """In floats."""
    total = integer_product(xp, A, a_zero_point, B, b_zero_point, derived)
    if total is NotImplemented:
        return quant.matmul_integer(_for_bytes(xp), A, B, a_zero_point, b_zero_point)
    return total


def qlinear_matmul(
    xp: Namespace,
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
    """The product in floats."""
    total = integer_product(xp, a, a_zero_point, b, b_zero_point, derived)
    if total is NotImplemented:
        return quant.qlinear_matmul(
            _for_bytes(xp), a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point
        )
    return quant.requantised_product(xp, total, a_scale, b_scale, y_scale, y_zero_point)


def matmul_integer_to_float(
    xp: Namespace,
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
    """The product in floats."""
    total = integer_product(xp, A, a_zero_point, B, b_zero_point, derived)
    return total if total is NotImplemented else contrib.scaled(xp, total, a_scale, b_scale, bias)


def dynamic_quantize_matmul(
    xp: Namespace, A: Any, B: Any, b_scale: Any, b_zero_point: Any = None, bias: Any = None, *, derived: Any = at_once
) -> Any:
    """The product in floats."""
    if A.dtype != torch.float32:
        return NotImplemented
    a, a_scale, a_zero_point = quant.dynamic_quantize_linear(xp, A)
    return matmul_integer_to_float(xp, a, B, a_scale, b_scale, a_zero_point, b_zero_point, bias, derived=derived)


def qgemm(
    xp: Namespace,
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
    """The product in floats."""
    if transA or A.ndim != 2 or a_zero_point.numel() != 1:
        return NotImplemented
    total = integer_product(xp, A, a_zero_point, B, b_zero_point, derived, transB)
    if total is NotImplemented:
        return NotImplemented
    return contrib.finished(xp, total, A, a_scale, b_scale, C, y_scale, y_zero_point, alpha)


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "MatMulInteger", 10): matmul_integer,
    ("", "QLinearMatMul", 10): qlinear_matmul,
    ("com.microsoft", "QGemm", 1): qgemm,
    ("com.microsoft", "MatMulIntegerToFloat", 1): matmul_integer_to_float,
    ("com.microsoft", "DynamicQuantizeMatMul", 1): dynamic_quantize_matmul,
}
