"""Normalisations."""

from __future__ import annotations

from math import prod

from ortlite.graph import Node
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Flag, Float, Int, Ints
from ortlite.ops.helpers import along, distinct_axes, normal_axis, one_of, require_broadcast, require_shape
from ortlite.ops.registry import op
from ortlite.ops.types import Inferred, Types, attribute_dtype


def _channels(xp: Namespace, v: Array, rank: int) -> Array:
    """A vector along axis 1 of a tensor of `rank`."""
    return along(xp, v, 1, rank) if rank > 1 else v


def _normalised(xp: Namespace, X: Array, scale: Array, B: Array, mean: Array, var: Array, epsilon: float) -> Array:
    """(X - mean) / sqrt(var + epsilon) · scale + B along axis 1, as one factor and one offset a channel."""
    channels = X.shape[1] if X.ndim > 1 else 1
    for name, v in (("scale", scale), ("B", B), ("the mean", mean), ("the variance", var)):
        require_shape(name, v, channels)
    wide = var.dtype if xp.isdtype(var.dtype, "real floating") else X.dtype
    factor = xp.astype(scale, wide) / xp.sqrt(xp.astype(var, wide) + epsilon)
    offset = xp.astype(B, wide) - xp.astype(mean, wide) * factor
    y = X * xp.astype(_channels(xp, factor, X.ndim), X.dtype)
    return y + xp.astype(_channels(xp, offset, X.ndim), X.dtype)


def _moments(xp: Namespace, X: Array, axes: tuple[int, ...], keepdims: bool = False) -> tuple[Array, Array]:
    mean = xp.mean(X, axis=axes, keepdims=True)
    var = xp.mean(xp.square(X - mean), axis=axes, keepdims=keepdims)
    return (mean if keepdims else xp.squeeze(mean, axis=axes)), var


@op("BatchNormalization", since=14, views=True)
def batch_normalization(
    xp: Namespace,
    X: Array,
    scale: Array,
    B: Array,
    input_mean: Array,
    input_var: Array,
    *,
    epsilon: Float = 1e-5,
    momentum: Float = 0.9,
    training_mode: Flag = 0,
) -> tuple[Array, Array, Array]:
    """Normalise each channel (axis 1) by a given mean and variance, in training by the batch's.

    Also returns the running mean and variance, which training moves by 1 - `momentum` towards the batch's.
    """
    if not training_mode:
        return _normalised(xp, X, scale, B, input_mean, input_var, epsilon), input_mean, input_var
    axes = tuple(i for i in range(X.ndim) if i != 1)
    mean, var = _moments(xp, xp.astype(X, input_mean.dtype), axes)
    y = _normalised(xp, X, scale, B, mean, var, epsilon)
    return y, input_mean * momentum + mean * (1 - momentum), input_var * momentum + var * (1 - momentum)


@op("BatchNormalization", views=True)
def batch_normalization_1(
    xp: Namespace,
    X: Array,
    scale: Array,
    B: Array,
    mean: Array,
    var: Array,
    *,
    epsilon: Float = 1e-5,
    is_test: Flag = 0,
    momentum: Float = 0.9,
    spatial: Flag = 1,
    n_outputs: Int = 1,
) -> tuple[Array, Array, Array, Array, Array]:
    """Batch normalisation below opset 7: trains when more than one output is asked for and `is_test` is not set.

    With `spatial` 0 every position of an example has statistics of its own. Returns y, running mean and
    variance, and the batch's mean and variance.
    """
    axes = (0,) if not spatial else tuple(i for i in range(X.ndim) if i != 1)
    saved_mean, saved_var = mean, var
    if n_outputs > 1 and not is_test:
        saved_mean, saved_var = _moments(xp, X, axes)
        mean = xp.reshape(mean, saved_mean.shape) * momentum + saved_mean * (1 - momentum)
        var = xp.reshape(var, saved_var.shape) * momentum + saved_var * (1 - momentum)
    if spatial:
        y = _normalised(xp, X, scale, B, saved_mean, saved_var, epsilon)
    else:
        shape = X.shape[1:]
        m, v, s, b = (xp.reshape(a, shape) for a in (saved_mean, saved_var, scale, B))
        y = (X - m) / xp.sqrt(v + epsilon) * s + b
    return y, mean, var, saved_mean, saved_var


@op("BatchNormalization", since=7, views=True)
def batch_normalization_7(
    xp: Namespace,
    X: Array,
    scale: Array,
    B: Array,
    mean: Array,
    var: Array,
    *,
    epsilon: Float = 1e-5,
    momentum: Float = 0.9,
    spatial: Flag = 1,
    n_outputs: Int = 1,
) -> tuple[Array, Array, Array, Array, Array]:
    """Batch normalisation of opsets 7 to 13, which trains when more than one output is asked for."""
    return batch_normalization_1(
        xp, X, scale, B, mean, var, epsilon=epsilon, momentum=momentum, spatial=spatial, n_outputs=n_outputs
    )


@op("InstanceNormalization")
def instance_normalization(xp: Namespace, input: Array, scale: Array, B: Array, *, epsilon: Float = 1e-5) -> Array:
    """Normalise every channel of every example over its positions; scale and shift a channel."""
    axes = tuple(range(2, input.ndim))
    require_shape("scale", scale, input.shape[1])
    require_shape("B", B, input.shape[1])
    mean, var = _moments(xp, input, axes, keepdims=True)
    factor = _channels(xp, scale, input.ndim) / xp.sqrt(var + epsilon)
    return (input - mean) * factor + _channels(xp, B, input.ndim)


def _with_statistics(node: Node, inputs: Types) -> Inferred:
    """The result has the dtype of the input; mean and deviation have the dtype that `stash_type` names."""
    return [inputs[0], *attribute_dtype("stash_type", "float32")(node, inputs) * 2]


@op("LayerNormalization", results=("X", "float32", "float32"))  # onnxruntime has it below opset 17
@op("LayerNormalization", since=17, types=_with_statistics)
def layer_normalization(
    xp: Namespace,
    X: Array,
    Scale: Array,
    B: Array | None = None,
    *,
    axis: Int = -1,
    epsilon: Float = 1e-5,
    stash_type: DType | None = None,
) -> tuple[Array, Array, Array]:
    """Normalise over all axes from `axis` on; scale and shift elementwise. Also the mean and 1 / standard deviation."""
    axes = tuple(range(normal_axis(axis, X.ndim), X.ndim))
    require_broadcast("Scale", Scale, X.shape)
    if B is not None:
        require_broadcast("B", B, X.shape)
    stash = xp.float32 if stash_type is None else xp.dtype(stash_type)
    x = X if xp.dtype_name(X.dtype) == "float64" else xp.astype(X, stash)
    mean = xp.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1.0 / xp.sqrt(xp.mean(xp.square(centred), axis=axes, keepdims=True) + epsilon)
    y = xp.astype(centred * inverse, X.dtype) * Scale
    return (y if B is None else y + B), xp.astype(mean, stash), xp.astype(inverse, stash)


@op("RMSNormalization", since=23)
def rms_normalization(
    xp: Namespace,
    X: Array,
    scale: Array,
    *,
    axis: Int = -1,
    epsilon: Float = 1e-5,
    stash_type: DType | None = None,
) -> Array:
    """Divide by the root of the mean square over all axes from `axis` on, and scale elementwise."""
    axes = tuple(range(normal_axis(axis, X.ndim), X.ndim))
    require_broadcast("scale", scale, X.shape)
    x = (
        X
        if xp.dtype_name(X.dtype) == "float64"
        else xp.astype(X, xp.float32 if stash_type is None else xp.dtype(stash_type))
    )
    y = x / xp.sqrt(xp.mean(xp.square(x), axis=axes, keepdims=True) + epsilon)
    return xp.astype(y, scale.dtype) * scale


def _grouped(xp: Namespace, X: Array, groups: int, epsilon: float, stash: DType | None) -> Array:
    """Normalised over the channels of each group and all positions: (N, groups, C / groups, positions)."""
    n, c = X.shape[:2]
    if groups < 1 or c % groups:
        raise ValueError(f"{c} channels cannot be divided into {groups} groups")
    x = xp.reshape(X, (n, groups, c // groups, prod(X.shape[2:])))
    x = x if xp.dtype_name(X.dtype) == "float64" else xp.astype(x, xp.float32 if stash is None else xp.dtype(stash))
    mean, var = _moments(xp, x, (2, 3), keepdims=True)
    return (x - mean) / xp.sqrt(var + epsilon)


@op("GroupNormalization", since=21)
def group_normalization(
    xp: Namespace,
    X: Array,
    scale: Array,
    bias: Array,
    *,
    epsilon: Float = 1e-5,
    num_groups: Int,
    stash_type: DType | None = None,
) -> Array:
    """Normalise groups of channels; `scale` and `bias` hold one element a channel."""
    require_shape("scale", scale, X.shape[1])
    require_shape("bias", bias, X.shape[1])
    y = xp.reshape(xp.astype(_grouped(xp, X, num_groups, epsilon, stash_type), X.dtype), X.shape)
    return y * _channels(xp, scale, X.ndim) + _channels(xp, bias, X.ndim)


@op("GroupNormalization", since=18)
def group_normalization_18(
    xp: Namespace, X: Array, scale: Array, bias: Array, *, epsilon: Float = 1e-5, num_groups: Int
) -> Array:
    """Normalise groups of channels; `scale` and `bias` hold one element a *group* (opsets 18 to 20)."""
    require_shape("scale", scale, num_groups)
    require_shape("bias", bias, num_groups)
    y = _grouped(xp, X, num_groups, epsilon, None)
    y = xp.astype(y, X.dtype) * xp.reshape(scale, (-1, 1, 1)) + xp.reshape(bias, (-1, 1, 1))
    return xp.reshape(y, X.shape)


@op("LpNormalization")
def lp_normalization(xp: Namespace, input: Array, *, axis: Int = -1, p: Int = 2) -> Array:
    """Divide by the `p`-norm along `axis`; a norm of 0 gives 0. Raises ValueError for a `p` other than 1 and 2."""
    one_of("p", p, 1, 2)
    axis = normal_axis(axis, input.ndim)
    if p == 1:
        norm = xp.sum(xp.abs(input), axis=axis, keepdims=True, dtype=input.dtype)
    else:
        norm = xp.root(xp.sum(xp.square(input), axis=axis, keepdims=True, dtype=input.dtype))
    zero = norm == 0
    return xp.where(zero, xp.zeros_like(input), input / xp.where(zero, xp.ones_like(norm), norm))


@op("LRN")
def lrn(xp: Namespace, X: Array, *, alpha: Float = 1e-4, beta: Float = 0.75, bias: Float = 1.0, size: Int) -> Array:
    """Divide by (`bias` + `alpha` / `size` · the sum of squares over `size` neighbouring channels) ^ `beta`."""
    if size < 1 or X.ndim < 2:
        raise ValueError(f"{size} neighbouring channels of {list(X.shape)} are none: size must be 1 or more")
    farthest = max(X.shape[1] - 1, 0)  # a window may reach far beyond the channels
    before, after = min((size - 1) // 2, farthest), min(size // 2, farthest)
    widths = [(0, 0)] * X.ndim
    widths[1] = (before, after)
    squares = xp.pad(xp.square(X), widths)
    total = squares[:, : X.shape[1], ...]
    for i in range(1, before + after + 1):
        total = total + squares[:, i : i + X.shape[1], ...]
    return X / xp.pow(total * (alpha / size) + bias, xp.asarray(beta, dtype=X.dtype))


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(xp: Namespace, X: Array, *, axes: Ints = (0, 2, 3)) -> Array:
    """Subtract the mean over `axes` and divide by the standard deviation (plus 1e-9)."""
    mean, var = _moments(xp, X, distinct_axes(axes, X.ndim), keepdims=True)
    return (X - mean) / (xp.root(var) + 1e-9)
