"""Operators that PyTorch does faster, with the signatures of their kernels.

Where torch has no exact counterpart, they return NotImplemented, and the kernel runs; so do Attention and GridSample
under differentiation: torch's own have no second derivatives and none forwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from math import isfinite, prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops import attention as attend
from ortlite.ops.helpers import normal_axis, require_shape
from ortlite_torch import fused, indexing, onednn, products, quant, recurrent
from ortlite_torch.primitives import differentiated, functorch
from ortlite_torch.record import opaque
from ortlite_torch.threads import fit, norm_work

elu_of: Any = torch.ops.aten.elu  # F.elu without its alpha and scales for both sides
SCORES = 1 << 20  # of attention, that many of which compiled code had better not keep
PER_QUERY = 2000  # operations that a query costs beside its products with keys and values
INTERPOLATE = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}


def prelu(xp: Namespace, X: Any, slope: Any) -> Any:
    """torch.prelu, of one slope or one a channel."""
    axes = [i - slope.ndim for i, n in enumerate(slope.shape) if n != 1]
    if X.ndim < 2 or (axes and axes != [1 - X.ndim]):
        return NotImplemented
    return torch.prelu(X, slope.reshape(-1))


def elu(xp: Namespace, X: Any, *, alpha: float = 1.0) -> Any:
    """F.elu."""
    return F.elu(X, alpha)


def celu(xp: Namespace, X: Any, *, alpha: float = 1.0) -> Any:
    """F.celu, which knows no alpha of 0."""
    return F.celu(X, alpha) if alpha else NotImplemented


def selu(xp: Namespace, X: Any, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Any:
    """Torch's elu with both factors."""
    return elu_of(X, alpha, gamma)


def hard_swish(xp: Namespace, X: Any) -> Any:
    """By F.hardsigmoid, which has no second derivatives: F.hardswish divides by six at the end, so 1e38 overflows."""
    return F.hardswish(X) if differentiated(X) else X * F.hardsigmoid(X)


def softplus(xp: Namespace, X: Any) -> Any:
    """F.softplus; from 40 on even float64 does not see the rest."""
    return F.softplus(X, threshold=40)


def mish(xp: Namespace, X: Any) -> Any:
    """F.mish."""
    return F.mish(X)


def swish(xp: Namespace, X: Any, *, alpha: float = 1.0) -> Any:
    """F.silu."""
    return F.silu(X) if alpha == 1.0 else NotImplemented


def log_softmax(xp: Namespace, input: Any, *, axis: int = -1) -> Any:
    """torch.log_softmax."""
    return torch.log_softmax(input, axis)


def layer_normalization(
    xp: Namespace,
    X: Any,
    Scale: Any,
    B: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Any = None,
) -> Any:
    """torch.native_layer_norm, where scale and bias have the shape of what is normalised and one dtype serves all."""
    shape = tuple(X.shape[normal_axis(axis, X.ndim) :])
    stash = torch.float32 if stash_type is None else xp.dtype(stash_type)
    weights = (Scale,) if B is None else (Scale, B)
    fits = all(tuple(w.shape) == shape and w.dtype == X.dtype for w in weights)
    if not fits or X.dtype not in {stash, torch.float64} or 0 in X.shape:
        return NotImplemented
    y, mean, inverse = fit(torch.native_layer_norm, norm_work(X), X)(X, shape, Scale, B, epsilon)
    return y, mean.to(stash), inverse.to(stash)


def instance_normalization(
    xp: Namespace, input: Any, scale: Any, B: Any, *, epsilon: float = 1e-5, derived: Any = at_once
) -> Any:
    """torch.group_norm with a channel a group."""
    if 0 in input.shape or scale.dtype != input.dtype:
        return NotImplemented
    return _group_norm(xp, input, input.shape[1], scale, B, epsilon, derived)


def group_normalization(
    xp: Namespace,
    X: Any,
    scale: Any,
    bias: Any,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: Any = None,
    derived: Any = at_once,
) -> Any:
    """torch.group_norm."""
    stash = torch.float32 if stash_type is None else xp.dtype(stash_type)
    if 0 in X.shape or X.dtype not in {stash, torch.float64} or scale.dtype != X.dtype:
        return NotImplemented
    return _group_norm(xp, X, num_groups, scale, bias, epsilon, derived)


def _group_norm(xp: Namespace, x: Any, groups: int, scale: Any, bias: Any, epsilon: float, derived: Any) -> Any:
    """Torch multiplies the mean by the scale: where that is infinite, NaN would come of it."""
    require_shape("scale", scale, x.shape[1])
    require_shape("bias", bias, x.shape[1])
    if lasting(derived, scale) and derived(_finite, scale):
        return torch.group_norm(x, groups, scale, bias, epsilon)
    return (_scaled_here if xp.readable(scale) else _scaled_apart)(x, groups, scale, bias, epsilon)


@opaque
def _scaled_here(x: Any, groups: int, scale: Any, bias: Any, epsilon: float) -> Any:
    """Torch's own where a look at the scale allows it: it takes half as long."""
    return (torch.group_norm if _finite(scale) else _scaled_apart)(x, groups, scale, bias, epsilon)


def _scaled_apart(x: Any, groups: int, scale: Any, bias: Any, epsilon: float) -> Any:
    """Normalised before it is scaled."""
    shape = (-1, *(1,) * (x.ndim - 2))
    return torch.group_norm(x, groups, None, None, epsilon) * scale.reshape(shape) + bias.reshape(shape)


def _finite(x: Any) -> bool:
    """Whether no element is infinite or NaN."""
    return bool(torch.isfinite(x).all())


def batch_normalization(
    xp: Namespace,
    X: Any,
    scale: Any,
    B: Any,
    input_mean: Any,
    input_var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """torch.batch_norm by a given mean and variance, which it does not differentiate by."""
    given = (scale, B, input_mean, input_var)
    ours = training_mode or 0 in X.shape or X.ndim < 2 or any(v.dtype != X.dtype for v in given)
    if ours or differentiated(input_mean, input_var):
        return NotImplemented
    y = torch.batch_norm(X, scale, B, input_mean, input_var, False, 0.0, epsilon, False)
    return y, input_mean, input_var


def _few(*shape: Any) -> bool:
    """Whether there are few scores; lengths that torch traces are many."""
    return all(type(n) is int for n in shape) and prod(shape) < SCORES


@attend.scaled_dot_product
def _attention(xp: Namespace, q: Any, k: Any, v: Any, mask: Any, past: Any, causal: bool, scale: float | None) -> Any:
    """F.scaled_dot_product_attention."""
    keys = k.shape[2] + (0 if past is None else past[0].shape[2])
    causal = causal and not (past is not None and q.shape[2] == k.shape[2] == 1)  # the newest token sees all there is
    if (causal and (past is not None or mask is not None)) or (mask is not None and mask.shape[-1] != keys):
        return NotImplemented
    if causal and scale is not None and scale <= 0:  # torch hides by -inf before it scales
        return NotImplemented
    if differentiated(q, k, v, mask, *(past or ())):
        return NotImplemented
    if torch.compiler.is_compiling() and q.device.type == "cpu" and _few(*q.shape[:3], keys):
        return NotImplemented  # the kernel is fused, and behind torch's own NaN has to be looked for
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
        mask = mask if mask.ndim > 1 else mask.unsqueeze(0)  # torch wants an axis of queries
    attends = fit(F.scaled_dot_product_attention, prod(q.shape[:3]) * (4 * q.shape[3] * keys + PER_QUERY), q)
    y = attends(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=bool(q.shape[1] != k.shape[1]))
    y = (_honest_here if xp.readable(q) else _honest)(xp, y, q, k, v, mask, scale, causal)
    return y, k, v


@wraps(_attention, assigned=())  # for its signature
def attention(
    xp: Namespace, Q: Any, K: Any, V: Any, attn_mask: Any = None, *more: Any, n_outputs: int = 1, **attributes: Any
) -> Any:
    """F.scaled_dot_product_attention; of one token over a cache as few calls as can be."""
    if not more and attn_mask is not None and not attributes.keys() - {"scale"} and n_outputs < 4:
        queries, keys = Q.shape, K.shape
        batch, heads, tokens, size = queries if len(queries) == 4 else (0, 0, 0, 0)
        if (
            tokens == 1
            and len(keys) == 4
            and keys == V.shape
            and (keys[0], keys[3]) == (batch, size)
            and attn_mask.numel() == attn_mask.shape[-1] == keys[2]
            and 0 not in keys
            and not heads % keys[1]
            and onednn.inferring(Q, K, V, attn_mask)
        ):
            work = heads * batch * (4 * size * keys[2] + PER_QUERY)
            return fit(_one_query, work, Q)(xp, Q, K, V, attn_mask, attributes.get("scale")), K, V, None
    return _attention(xp, Q, K, V, attn_mask, *more, n_outputs=n_outputs, **attributes)


@opaque
def _one_query(xp: Namespace, q: Any, k: Any, v: Any, mask: Any, scale: float | None) -> Any:
    """As the kernel does it, in fewer calls; where NaN or infinity comes out, which a mask may have hidden, by it."""
    batch, heads, _, size = q.shape
    shared = k.shape[1]
    rows = (q * (size**-0.5 if scale is None else scale)).reshape(batch * shared, heads // shared, size)
    scores = torch.baddbmm(mask.reshape(1, 1, -1), rows, k.flatten(0, 1).mT)
    y = torch.bmm(torch.softmax(scores, -1), v.flatten(0, 1)).view(batch, heads, 1, size)
    return y if isfinite(float(y.sum())) else attend.attention(xp, q, k, v, mask, scale=scale)[0]


@opaque
def _honest_here(xp: Namespace, y: Any, q: Any, k: Any, v: Any, mask: Any, scale: float | None, causal: bool) -> Any:
    """The same, after a look at the values: where all are finite and the scores not large, torch is right."""
    factor = q.shape[3] ** -0.5 if scale is None else abs(scale)
    limits = torch.finfo(torch.promote_types(q.dtype, torch.float32))
    # no score is larger than the lengths of all queries and of all keys, multiplied
    reach = factor * _length(q) * _length(k)
    hides = causal or mask is not None
    sums = float(y.sum()) + (float(v.sum()) if hides else 0.0)  # of which one NaN or infinity makes another
    if reach < limits.max * limits.eps / 8 and isfinite(sums):
        return y
    return _honest(xp, y, q, k, v, mask, scale, causal)


def _length(x: Any) -> float:
    """The Euclidean norm, or infinity where the squares overflow. torch's is slow where memory has gaps."""
    dense = x if x.is_contiguous() else x.transpose(1, 2)
    if dense.is_contiguous() and x.dtype in fused.WIDE:
        flat = dense.reshape(-1)
        return sqrt(float(torch.dot(flat, flat)))
    wide = torch.promote_types(x.dtype, torch.float32)
    return sqrt(float((x * x).sum(dtype=wide)))


def _honest(xp: Namespace, y: Any, q: Any, k: Any, v: Any, mask: Any, scale: float | None, causal: bool) -> Any:
    """Attention with NaN back in the rows of which torch makes zeros or leaves out keys.

    Its kernel takes a row of NaN, or one of scores that overflow to -inf, for one from which the mask hides all; and
    it does not read keys and values that causality hides, of which infinity less infinity and 0 times NaN or infinity
    make NaN.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    limits = torch.finfo(wide)
    factor = q.shape[3] ** -0.5 if scale is None else abs(scale)
    largest = k.to(wide).abs().amax(2, keepdim=True).transpose(2, 3)
    reach = attend.by_key_heads(xp, q.to(wide).abs() * factor, largest)  # no score is further from 0
    far = reach >= limits.max * limits.eps / 8  # enough for the lowest number in a mask to overflow
    empty = ((y == 0) | y.isnan()).all(-1, keepdim=True)
    y = torch.where((far & empty) | reach.isnan(), torch.nan, y)
    if causal:  # and there is no mask
        later = F.pad((~v.isfinite()).flip(2).cumsum(2).flip(2)[:, :, 1:], (0, 0, 0, q.shape[2]))
        unseen = later[:, :, : q.shape[2]].repeat_interleave(q.shape[1] // v.shape[1], 1)
        y = torch.where(unseen > 0, torch.nan, y)
        signed = factor if scale is None else scale
        endless = None
        numbers = all(type(n) is int for n in (*q.shape, *k.shape))  # not lengths that torch traces
        if numbers and torch.compiler.is_compiling() and not functorch.is_functorch_wrapped_tensor(q):
            with suppress(DataDependentOutputException):  # where lengths are traced, torch may not take branches
                endless = torch.cond(  # two products for few
                    far.any() | reach.isnan().any(),
                    lambda q, k: _endless(xp, q, k, signed),
                    lambda q, k: q.new_zeros((*q.shape[:3], 1), dtype=torch.bool),
                    (q, k),
                )
        if endless is None:
            endless = _endless(xp, q, k, signed)
        y = torch.where(endless, torch.nan, y)  # less infinity, by which causality hides them
    if mask is None:
        return y
    hidden = (~mask if mask.dtype == torch.bool else mask == -torch.inf).all(-1, keepdim=True)
    nothing = (v * 0).sum(2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], 1)
    return torch.where(hidden, nothing, y)


def _endless(xp: Namespace, q: Any, k: Any, scale: float) -> Any:
    """For which queries the score of a later key is infinite or NaN."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = attend.by_key_heads(xp, q.to(wide) * scale, k.to(wide).transpose(2, 3))
    return (scores.isnan() | (scores == torch.inf)).triu(1).any(-1, keepdim=True)


def rotary_embedding(
    xp: Namespace,
    X: Any,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
    derived: Any = at_once,
) -> Any:
    """The halves of every head by one roll, where all of it turns: the kernel makes three times as many calls."""
    x = attend.split_heads(xp, X, num_heads)
    shape = (x.shape[0], x.shape[2], x.shape[3] // 2)
    whole = rotary_embedding_dim in (0, x.shape[3]) and x.shape[3] % 2 == 0
    alike = tuple(cos_cache.shape) == tuple(sin_cache.shape) == shape and cos_cache.dtype == sin_cache.dtype == x.dtype
    if interleaved or position_ids is not None or not (whole and alike):
        return NotImplemented
    cos, sin = derived(_doubled, cos_cache, False), derived(_doubled, sin_cache, True)
    y = torch.addcmul(x * cos, torch.roll(x, shape[2], -1), sin)
    return attend.merge_heads(xp, y) if X.ndim == 3 else y


def _doubled(angles: Any, signed: bool) -> Any:
    """Cosines or, negative for the first half, sines of both halves of a head."""
    return torch.cat([-angles if signed else angles, angles], -1).unsqueeze(1)


def grid_sample(
    xp: Namespace,
    X: Any,
    grid: Any,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Any:
    """F.grid_sample of images and volumes. It mirrors places before it rounds them, where ONNX rounds first."""
    kind = mode.removeprefix("bi")
    known = X.ndim == 4 or (X.ndim == 5 and kind != "cubic")
    if kind == "nearest" and padding_mode == "reflection" and not align_corners:
        return NotImplemented
    floats = X.dtype.is_floating_point and X.dtype == grid.dtype
    if not known or not floats or 0 in (*X.shape, *grid.shape) or differentiated(X, grid):
        return NotImplemented
    name = kind if kind == "nearest" else f"bi{kind}"
    return F.grid_sample(X, grid, name, padding_mode, bool(align_corners))


def resize(
    xp: Namespace,
    X: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: Any = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Any:
    """F.interpolate, where it reads at the same places to the last bit: by factors that floats hold exactly."""
    places = (coordinate_transformation_mode, nearest_mode)
    known = not (antialias or axes or exclude_outside) and keep_aspect_ratio_policy == "stretch"
    out = _sizes(X, scales, sizes) if known else None
    name = None
    if out is not None and mode == "nearest":
        # by a whole number, the middle of every new element lies within the old one
        whole = all(m % n == 0 for n, m in zip(X.shape[2:], out, strict=True))
        centred = places[0] == "half_pixel" and nearest_mode.startswith("round")
        name = "nearest" if whole and (centred or places == ("asymmetric", "floor")) else None
    elif out is not None and places[0] == "half_pixel" and (mode == "linear" or cubic_coeff_a == -0.75):
        exact = all(n * 256 % m == 0 for n, m in zip(X.shape[2:], out, strict=True))
        name = INTERPOLATE.get((mode, X.ndim)) if exact else None
    if name is None:
        return NotImplemented
    return F.interpolate(_channels_last(X), out, mode=name)


def _channels_last(X: Any) -> Any:
    """Images that lie channels last, with strides that say so: torch looks at those of an axis of one element, too."""
    if X.ndim != 4 or not onednn.inferring(X):
        return X
    if X.is_contiguous() or not X.is_contiguous(memory_format=torch.channels_last):
        return X
    _, channels, height, width = X.shape
    return X.as_strided(X.shape, (channels * height * width, 1, channels * width, channels))


def _sizes(X: Any, scales: Any, sizes: Any) -> list[int] | None:
    """The new lengths of the spatial axes of float images; None when others change or the scales give no whole one."""
    if not X.dtype.is_floating_point or X.ndim not in {3, 4, 5} or 0 in X.shape or not (sizes or scales):
        return None
    wanted = sizes or [n * s for n, s in zip(X.shape, scales, strict=True)]
    if any(m != int(m) or m < 1 for m in wanted) or list(wanted[:2]) != list(X.shape[:2]):
        return None
    return [int(m) for m in wanted[2:]]


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "PRelu", 7): prelu,
    ("", "Elu", 1): elu,
    ("", "Celu", 12): celu,
    ("", "Selu", 6): selu,
    ("", "HardSwish", 14): hard_swish,
    ("", "Softplus", 1): softplus,
    ("", "Mish", 18): mish,
    ("", "Swish", 24): swish,
    ("", "LogSoftmax", 13): log_softmax,
    ("", "LayerNormalization", 1): layer_normalization,
    ("", "LayerNormalization", 17): layer_normalization,
    ("", "InstanceNormalization", 1): instance_normalization,
    ("", "GroupNormalization", 21): group_normalization,
    ("", "BatchNormalization", 14): batch_normalization,
    ("", "Attention", 23): attention,
    ("", "Attention", 24): attention,
    ("", "RotaryEmbedding", 23): rotary_embedding,
    ("", "GridSample", 16): grid_sample,
    ("", "GridSample", 20): grid_sample,
    ("", "Resize", 11): resize,
    **fused.OVERRIDES,
    **indexing.OVERRIDES,
    **onednn.OVERRIDES,
    **products.OVERRIDES,
    **quant.OVERRIDES,
    **recurrent.OVERRIDES,
}
