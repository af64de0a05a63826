"""Activation functions, softmax and its kin, and dropout."""

from __future__ import annotations

from math import pi, prod, sqrt

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Bool, Flag, Float, Int, Text
from ortlite.ops.helpers import along, folded_axes, normal_axis, one_of, require_broadcast, wide_integers
from ortlite.ops.registry import op


@op("Relu")
def relu(xp: Namespace, X: Array) -> Array:
    """`X` where it is above 0, else 0."""
    return xp.relu(X)


@op("LeakyRelu")
def leaky_relu(xp: Namespace, X: Array, *, alpha: Float = 0.01) -> Array:
    """`X` where it is not below 0, else `alpha` · `X`."""
    return xp.leaky_relu(X, alpha)


@op("PRelu", since=7)
def prelu(xp: Namespace, X: Array, slope: Array) -> Array:
    """`X` where it is not below 0, else `slope` · `X`. Raises ValueError when `slope` cannot be broadcast to `X`."""
    require_broadcast("slope", slope, X.shape)
    return xp.leaky_relu(X, slope)


@op("PRelu")
def prelu_1(xp: Namespace, X: Array, slope: Array) -> Array:
    """PRelu with one `slope` a channel (axis 1), or one for all."""
    if slope.ndim == 1 and slope.shape[0] != 1 and X.ndim > 1:
        slope = along(xp, slope, 1, X.ndim)
    return prelu(xp, X, slope)


@op("ThresholdedRelu", since=10)
def thresholded_relu(xp: Namespace, X: Array, *, alpha: Float = 1.0) -> Array:
    """`X` where it is above `alpha`, else 0."""
    return xp.where(X > alpha, X, xp.zeros_like(X))


@op("Elu")
def elu(xp: Namespace, X: Array, *, alpha: Float = 1.0) -> Array:
    """`X` where it is not below 0, else `alpha` · (e^X - 1)."""
    return xp.relu(X) + xp.expm1(xp.clip(X, None, 0.0)) * alpha


@op("Celu", since=12)
def celu(xp: Namespace, X: Array, *, alpha: Float = 1.0) -> Array:
    """`X` where it is not below 0, else `alpha` · (e^(X / alpha) - 1), whatever the sign of `alpha`."""
    return elu(xp, X) if alpha == 1.0 else xp.relu(X) + xp.expm1(xp.clip(X, None, 0.0) / alpha) * alpha


@op("Selu", since=6)
def selu(xp: Namespace, X: Array, *, alpha: Float = 1.6732631921768188, gamma: Float = 1.0507010221481323) -> Array:
    """`gamma` · elu(`X`, `alpha`)."""
    return elu(xp, X, alpha=alpha) * gamma


@op("Selu")
def selu_1(xp: Namespace, X: Array, *, alpha: Float = 1.6732, gamma: Float = 1.0507) -> Array:
    """Selu with the rounder constants of opset 1."""
    return selu(xp, X, alpha=alpha, gamma=gamma)


@op("Sigmoid")
def sigmoid(xp: Namespace, X: Array) -> Array:
    """1 / (1 + e^-X), without overflow on either side."""
    return xp.sigmoid(X)


@op("HardSigmoid")
def hard_sigmoid(xp: Namespace, X: Array, *, alpha: Float = 0.2, beta: Float = 0.5) -> Array:
    """`alpha` · `X` + `beta`, held between 0 and 1."""
    return xp.hardtanh(X * alpha + beta, 0.0, 1.0)


@op("HardSwish", since=14)
def hard_swish(xp: Namespace, X: Array) -> Array:
    """`X` · hard sigmoid of `X` with slope 1/6."""
    return X * hard_sigmoid(xp, X, alpha=1 / 6, beta=0.5)


@op("Tanh")
def tanh(xp: Namespace, input: Array) -> Array:
    """Hyperbolic tangent."""
    return xp.tanh(input)


@op("Softplus")
def softplus(xp: Namespace, X: Array) -> Array:
    """log(1 + e^X), without overflow."""
    return xp.maximum(X, xp.asarray(0, dtype=X.dtype)) + xp.log1p(xp.exp(-xp.abs(X)))


@op("Softsign")
def softsign(xp: Namespace, input: Array) -> Array:
    """`input` / (1 + |input|)."""
    return input / (xp.abs(input) + 1.0)


@op("Mish", since=18)
def mish(xp: Namespace, X: Array) -> Array:
    """`X` · tanh(softplus(`X`))."""
    return X * xp.tanh(softplus(xp, X))


@op("Gelu", since=20)
def gelu(xp: Namespace, X: Array, *, approximate: Text = "none") -> Array:
    """`X` · Φ(`X`), Φ the normal distribution; `approximate` "tanh" uses a hyperbolic tangent for it."""
    one_of("approximate", approximate, "none", "tanh")
    if approximate == "tanh":
        return X * ((xp.tanh((X * X * X * 0.044715 + X) * sqrt(2 / pi)) + 1.0) * 0.5)
    return X * ((xp.erf(X * sqrt(0.5)) + 1.0) * 0.5)  # 2 X may be beyond the largest number


@op("Swish", since=24)
def swish(xp: Namespace, X: Array, *, alpha: Float = 1.0) -> Array:
    """`X` · sigmoid(`alpha` · `X`)."""
    return X * xp.sigmoid(X if alpha == 1.0 else X * alpha)


@op("SwiGLU", since=28)
def swiglu(xp: Namespace, A: Array, B: Array, *, alpha: Float = 1.0) -> Array:
    """swish(`A`, `alpha`) · `B`, of one shape."""
    if A.shape != B.shape:
        raise ValueError(f"A and B must have one shape, not {tuple(A.shape)} and {tuple(B.shape)}")
    return swish(xp, A, alpha=alpha) * B


@op("Shrink", since=9, needs=wide_integers)
def shrink(xp: Namespace, input: Array, *, bias: Float = 0.0, lambd: Float = 0.5) -> Array:
    """`input` + `bias` below -`lambd`, `input` - `bias` above `lambd`, else 0; integers are truncated."""
    if xp.isdtype(input.dtype, "real floating"):
        below, above, x = input + bias, input - bias, input
    else:
        x = xp.astype(input, xp.float64)
        below, above = _truncated_sum(xp, input, x, bias), _truncated_sum(xp, input, x, -bias)
    return xp.where(x < -lambd, below, xp.where(x > lambd, above, xp.zeros_like(input)))


def _truncated_sum(xp: Namespace, n: Array, x: Array, by: float) -> Array:
    """The integers `n` + `by`, truncated: a whole number next to `by` is added, for `x`, `n` in float64, is rounded."""
    step = xp.asarray(by, dtype=xp.float64)
    whole = xp.where(x + step < 0.0, xp.ceil(step), xp.floor(step))
    return n + xp.astype(xp.astype(whole, xp.int64), n.dtype)


def _flattened(xp: Namespace, x: Array, axis: int) -> Array:
    """The two-dimensional view that softmax and its kin had below opset 13."""
    axis = normal_axis(axis, x.ndim) if x.ndim else 0
    return xp.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@op("Softmax", since=13, any_dtype=True)
def softmax(xp: Namespace, input: Array, *, axis: Int = -1) -> Array:
    """e^input, divided by its sum along `axis`.

    A scalar has the axes 0 and -1 here: its softmax is 1. ONNX defines it as a function: in float16 and bfloat16 each
    of its steps is computed in float32 and rounded. The sum of more than 2^15 elements, which could overflow, stays in
    float32.
    """
    folded_axes((axis,), input.ndim)
    if input.ndim == 0:
        return xp.reshape(softmax(xp, xp.reshape(input, (1,))), ())
    if xp.dtype_name(input.dtype) not in {"float16", "bfloat16"} or 0 in input.shape:
        return xp.softmax(input, axis)

    def rounded(x: Array) -> Array:
        return xp.astype(xp.astype(x, input.dtype), xp.float32)

    x = xp.astype(input, xp.float32)
    weights = rounded(xp.exp(rounded(x - xp.max(x, axis=axis, keepdims=True))))
    total = xp.sum(weights, axis=axis, keepdims=True)
    return xp.astype(weights / (rounded(total) if input.shape[axis] <= 2**15 else total), input.dtype)


@op("Softmax")
def softmax_1(xp: Namespace, input: Array, *, axis: Int = 1) -> Array:
    """Softmax over all axes from `axis` on, as one."""
    return xp.reshape(xp.softmax(_flattened(xp, input, axis), 1), input.shape)


@op("LogSoftmax", since=13)
def log_softmax(xp: Namespace, input: Array, *, axis: Int = -1) -> Array:
    """The logarithm of softmax, computed without its exponentials."""
    folded_axes((axis,), input.ndim)
    if input.ndim == 0:
        return xp.reshape(log_softmax(xp, xp.reshape(input, (1,))), ())
    if 0 in input.shape:
        return input
    shifted = input - xp.max(input, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True, dtype=shifted.dtype))


@op("LogSoftmax")
def log_softmax_1(xp: Namespace, input: Array, *, axis: Int = 1) -> Array:
    """LogSoftmax over all axes from `axis` on, as one."""
    return xp.reshape(log_softmax(xp, _flattened(xp, input, axis), axis=1), input.shape)


@op("Hardmax", since=13)
def hardmax(xp: Namespace, input: Array, *, axis: Int = -1) -> Array:
    """1 at the first maximum along `axis`, else 0."""
    folded_axes((axis,), input.ndim)
    if input.ndim == 0:
        return xp.ones_like(input)
    if 0 in input.shape:
        return input
    axis = normal_axis(axis, input.ndim)
    zero, one = (xp.asarray(v, dtype=input.dtype) for v in (0, 1))
    return xp.one_hot(xp.argmax(input, axis=axis), input.shape[axis], axis, one, zero)


@op("Hardmax")
def hardmax_1(xp: Namespace, input: Array, *, axis: Int = 1) -> Array:
    """Hardmax over all axes from `axis` on, as one."""
    return xp.reshape(hardmax(xp, _flattened(xp, input, axis), axis=1), input.shape)


def _dropped(xp: Namespace, data: Array, ratio: float, seed: int) -> tuple[Array, Array]:
    """Zero a share `ratio` of the elements and scale the others up, so that the mean stays."""
    kept = xp.random_uniform(seed, data.shape, data.dtype) >= ratio
    scale = 1.0 / (1.0 - ratio) if ratio < 1 else 0.0
    return xp.where(kept, data * scale, xp.zeros_like(data)), kept


@op("Dropout", since=12, views=True)
def dropout(
    xp: Namespace,
    data: Array,
    ratio: Float | None = None,
    training_mode: Bool = False,
    *,
    seed: Int | None = None,
    n_outputs: Int = 1,
    rng: Int = 0,
) -> tuple[Array, Array | None]:
    """In training, zero a share `ratio` (default 0.5) of `data` and scale the rest; else `data`. And the mask kept."""
    share = 0.5 if ratio is None else ratio
    if not training_mode or share == 0:
        return data, xp.ones(data.shape, dtype=xp.bool) if n_outputs > 1 else None
    return _dropped(xp, data, share, rng)


@op("Dropout", since=7, views=True)
def dropout_7(xp: Namespace, data: Array, *, ratio: Float = 0.5, n_outputs: Int = 1) -> tuple[Array, Array | None]:
    """`data`: opsets 7 to 9 have no training. The mask has the dtype of `data`."""
    return data, xp.ones_like(data) if n_outputs > 1 else None


@op("Dropout", since=10, views=True)
def dropout_10(xp: Namespace, data: Array, *, ratio: Float = 0.5, n_outputs: Int = 1) -> tuple[Array, Array | None]:
    """`data`: opsets 10 and 11 have no training. The mask is boolean."""
    return data, xp.ones(data.shape, dtype=xp.bool) if n_outputs > 1 else None


@op("Dropout", views=True)
def dropout_1(
    xp: Namespace, data: Array, *, ratio: Float = 0.5, is_test: Flag = 0, rng: Int = 0
) -> tuple[Array, Array]:
    """Dropout that trains unless `is_test` is set; the mask has the dtype of `data`."""
    if is_test:
        return data, xp.ones_like(data)
    y, kept = _dropped(xp, data, ratio, rng)
    return y, xp.astype(kept, data.dtype)
