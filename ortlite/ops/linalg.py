"""Products of matrices and what is built from them."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Text
from ortlite.ops.helpers import require_broadcast, wide_integers
from ortlite.ops.registry import op


def matrix_product(xp: Namespace, a: Array, b: Array) -> Array:
    """`a` @ `b` in their dtype; integers exactly, modulo their width."""
    return xp.matmul(a, b) if xp.isdtype(a.dtype, "real floating") else xp.integer_matmul(a, b, a.dtype)


@op("MatMul")
def matmul(xp: Namespace, A: Array, B: Array) -> Array:
    """The matrix product over the last two axes, the others broadcast; vectors as in NumPy."""
    return matrix_product(xp, A, B)


@op("Gemm", since=7, needs=wide_integers)
def gemm(
    xp: Namespace,
    A: Array,
    B: Array,
    C: Array | None = None,
    *,
    alpha: Float = 1.0,
    beta: Float = 1.0,
    transA: Flag = 0,
    transB: Flag = 0,
) -> Array:
    """`alpha` · A' B' + `beta` · C: A' (M, K) and B' (K, N) transposed on request, C broadcast to (M, N).

    Raises ValueError for shapes that do not fit.
    """
    if A.ndim != 2 or B.ndim != 2 or A.shape[0 if transA else 1] != B.shape[1 if transB else 0]:
        raise ValueError(
            f"A {list(A.shape)} (transA {transA}) and B {list(B.shape)} (transB {transB}) cannot be multiplied"
        )
    if C is not None:
        require_broadcast("C", C, (A.shape[1 if transA else 0], B.shape[0 if transB else 1]))
    y = matrix_product(xp, A.T if transA else A, B.T if transB else B)
    y = _scaled(xp, y, alpha)
    return y if C is None or beta == 0.0 else y + _scaled(xp, C, beta)


def _scaled(xp: Namespace, x: Array, factor: float) -> Array:
    """`x` · `factor`; integers by way of float64, truncated."""
    if factor == 1.0:
        return x
    return x * factor if xp.isdtype(x.dtype, "real floating") else xp.astype(xp.astype(x, xp.float64) * factor, x.dtype)


@op("Gemm", needs=wide_integers)
def gemm_1(
    xp: Namespace,
    A: Array,
    B: Array,
    C: Array,
    *,
    alpha: Float = 1.0,
    beta: Float = 1.0,
    broadcast: Flag = 0,
    transA: Flag = 0,
    transB: Flag = 0,
) -> Array:
    """Gemm in which `C` is broadcast only on request. Raises ValueError for a C of another shape without it."""
    y = gemm(xp, A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    if not broadcast and y.shape != C.shape:
        raise ValueError(f"C of shape {tuple(C.shape)} is not {tuple(y.shape)} and broadcast is not set")
    return y


@op("Einsum", since=12, views=True)
def einsum(xp: Namespace, *Inputs: Array, equation: Text) -> Array:
    """Einstein summation by `equation`."""
    return xp.einsum(equation, *Inputs)


@op("Det", since=11, needs=("linalg",))
def det(xp: Namespace, X: Array) -> Array:
    """The determinant over the last two axes."""
    return xp.linalg.det(X)
