"""Products with constant matrices that are packed once, on the CPU: by MKL for a few rows, by oneDNN for more.

MKL's usual product packs the matrix in every call, which costs more than a few rows. Small matrices stay in the cache,
and one row reads its matrix but once: those are not worth it. Of up to `FEW` rows MKL's packed product took half to
three quarters of oneDNN's time; from 24 on they are equal, and oneDNN's serves any number of rows, where what MKL has
packed is for one: so a few rows are filled up to one of two numbers. All that holds on Intel's processors. On others
MKL takes up to twice as long as oneDNN, which then has all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.processors import maker
from ortlite.schema import OWN
from ortlite_torch.onednn import inferring, onednn
from ortlite_torch.threads import fit, product_work

__all__ = ["OVERRIDES"]

PACKS = torch.backends.mkldnn.is_available() and all(
    hasattr(onednn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
linear: Any = onednn._linear_pointwise.default if PACKS else None  # noqa: SLF001
Cut = Callable[[Any], Any]  # of tensors of float32: what is left of them in a shorter type
LARGE = 1 << 18  # elements of a matrix that pay
ROWS = 3
FEW = 16  # rows
HUGE = 1 << 20  # elements of a matrix that pay for rows of zeros
MANY, DEEP = 512, 128  # rows up to which MKL's product is faster, and terms of a sum from which on
mkl: Any = torch.ops.mkl
HAS_MKL = torch.backends.mkl.is_available() and all(
    hasattr(mkl, name) for name in ("_mkl_linear", "_mkl_reorder_linear_weight")
)
few_linear: Any = mkl._mkl_linear.default if HAS_MKL else None  # noqa: SLF001

BY_MKL = HAS_MKL and "GenuineIntel" in maker()


def matmul(xp: Namespace, A: Any, B: Any, *, derived: Any = at_once) -> Any:
    """By a packed matrix."""
    return packed_product(A, B, None, False, derived)


def gemm(
    xp: Namespace,
    A: Any,
    B: Any,
    C: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    derived: Any = at_once,
) -> Any:
    """By a packed matrix, else torch.addmm: `C` is added on the way."""
    if not A.ndim == B.ndim == 2 or A.dtype != B.dtype or not A.dtype.is_floating_point:
        return NotImplemented
    a, b = A.T if transA else A, B.T if transB else B
    if a.shape[1] != b.shape[0] or alpha != 1:
        return NotImplemented
    shape = a.shape[0], b.shape[1]
    if C is None or beta == 0:  # then nobody asks what is in C
        return packed_product(a, B, None, bool(transB), derived)
    if (
        C.dtype != A.dtype
        or C.ndim > 2
        or any(n not in {1, m} for n, m in zip(C.shape[::-1], shape[::-1], strict=False))
    ):
        return NotImplemented
    if beta == 1 and C.ndim and prod(C.shape) == C.shape[-1] == shape[1]:
        y = packed_product(a, B, C.reshape(-1), bool(transB), derived)
        if y is not NotImplemented:
            return y
    return fit(torch.addmm, product_work(a, b), a)(C, a, b, beta=beta)


def linear_row(xp: Namespace, X: Any, W: Any, B: Any, *, derived: Any = at_once) -> Any:
    """As Gemm, of all rows at once."""
    if X.ndim < 2 or B.shape != W.shape[1:]:
        return NotImplemented
    y = gemm(xp, X.flatten(0, -2), W, B, derived=derived)
    return y if y is NotImplemented else y.reshape(*X.shape[:-1], W.shape[1])


def packed_product(A: Any, B: Any, bias: Any, turned: bool, derived: Any, cut: Cut | None = None) -> Any:
    """A @ B, or A @ B.T where `turned`, plus the bias, by a packed B, both as `cut` makes them; or NotImplemented."""
    if not PACKS or B.ndim != 2 or A.ndim < 2 or prod(B.shape) < LARGE or not inferring(A, B, bias):
        return NotImplemented
    columns, depth = B.shape if turned else B.shape[::-1]
    rows = prod(A.shape[:-1])
    if A.shape[-1] != depth or rows < 2 or not lasting(derived, B):
        return NotImplemented
    bias = None if bias is None else bias.contiguous()  # packed products read one number after the other
    if cut is None and BY_MKL and rows <= ROWS:
        return F.linear(A, B if turned else derived(transposed, B), bias)
    if cut is None and BY_MKL and rows <= FEW:
        if rows not in {FEW // 2, FEW} and prod(B.shape) < HUGE:
            return NotImplemented
        return _few_rows(A.reshape(rows, depth), B, bias, turned, derived).reshape(*A.shape[:-1], columns)
    a = A.reshape(rows, depth).contiguous()
    if cut is None and BY_MKL and rows <= MANY and depth >= DEEP:
        matrix = derived(ForRows, B, turned).of(rows)
        if matrix is not None:
            y = fit(few_linear, 2 * rows * prod(B.shape), a)(a, matrix, B if turned else B.T, bias, rows)
            return y.reshape(*A.shape[:-1], columns)
    a = a if cut is None else cut(a)
    y = fit(linear, 2 * rows * prod(B.shape), a)(a, derived(packed, B, turned, cut), bias, "none", [], "")
    return y.reshape(*A.shape[:-1], columns)


def _few_rows(a: Any, B: Any, bias: Any, turned: bool, derived: Any) -> Any:
    """The product of a few rows by MKL's packed one; rows of zeros are added where fewer are given than it is for."""
    rows = a.shape[0]
    size = FEW // 2 if rows <= FEW // 2 else FEW
    if rows < size:
        a = torch.constant_pad_nd(a, (0, 0, 0, size - rows))
    y = few_linear(a, derived(packed_by_mkl, B, turned, size), B if turned else B.T, bias, size)
    return y if rows == size else torch.narrow(y, 0, 0, rows)


def transposed(B: Any) -> Any:
    """A matrix as F.linear takes it."""
    return B.T.contiguous()


def packed_by_mkl(B: Any, turned: bool, rows: int) -> Any:
    """A matrix, given transposed or not, as MKL likes it for products of so many rows."""
    return mkl._mkl_reorder_linear_weight(B if turned else B.T.contiguous(), rows)  # noqa: SLF001


class ForRows:
    """A matrix, given transposed or not, as MKL likes it, for the first number of rows that is asked for."""

    def __init__(self, B: Any, turned: bool):
        self.given = B, turned
        self.made: tuple[int, Any] | None = None

    def of(self, rows: int) -> Any:
        """The packed matrix, or None for another number of rows."""
        made = self.made
        if made is None:
            made = self.made = rows, packed_by_mkl(*self.given, rows)  # the last of two threads leaves its own
        return made[1] if made[0] == rows else None

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return 0 if self.made is None else int(self.made[1].nbytes)


def packed(B: Any, turned: bool, cut: Cut | None = None) -> Any:
    """A matrix, given transposed or not, in the layout that oneDNN likes."""
    B = B if cut is None else cut(B)
    return onednn._reorder_linear_weight(B if turned else B.T.contiguous(), None)  # noqa: SLF001


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "MatMul", 1): matmul,
    ("", "Gemm", 7): gemm,
    (OWN, "Linear", 1): linear_row,
}
