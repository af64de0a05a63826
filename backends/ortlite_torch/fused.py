"""Fused operators of com.microsoft, which the optimiser makes, by the functions of torch that do the same at once."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, prod
from typing import Any

import torch
import torch.nn.functional as F

from ortlite.namespace import Namespace
from ortlite.ops.helpers import normal_axis, one_of, require_shape
from ortlite_torch.onednn import inferring
from ortlite_torch.record import opaque
from ortlite_torch.threads import fit, norm_work

__all__ = ["OVERRIDES"]

NATIVE = 1 << 15  # elements of which torch's own Gelu takes no longer than oneDNN's and a look at its values
WIDE = {torch.float32, torch.float64}


def gelu(xp: Namespace, X: Any, *, approximate: str = "none") -> Any:
    """F.gelu, with infinity where it belongs."""
    one_of("approximate", approximate, "none", "tanh")
    if approximate == "tanh" or X.device.type != "cpu":
        return F.gelu(X, approximate=approximate)
    if not xp.readable(X):
        return F.gelu(X) if torch.compiler.is_compiling() else NotImplemented
    few = X.dtype == torch.float32 and prod(X.shape) <= NATIVE
    if few and X.ndim > 1 and min(X.shape[-2:]) > 1 and X.is_contiguous():
        return F.gelu(X.mT).mT  # of another layout torch does not ask oneDNN, which takes longer to start than to end
    return _gelu_here(X)


@opaque
def _gelu_here(X: Any) -> Any:
    """The same, after a look at the values: on AVX-512, oneDNN's, which F.gelu takes, makes NaN of infinity."""
    y = F.gelu(X)
    return y if isfinite(float(y.detach().sum())) else F.gelu(X.to(torch.float64)).to(X.dtype)


def bias_gelu(xp: Namespace, A: Any, B: Any) -> Any:
    """F.gelu of the sum."""
    require_shape("B", B, A.shape[-1])
    return gelu(xp, A + B)


def fast_gelu(xp: Namespace, X: Any, bias: Any = None) -> Any:
    """F.gelu by a hyperbolic tangent."""
    require_shape("bias", bias, *X.shape[-1:])
    return F.gelu(X if bias is None else X + bias, approximate="tanh")


def quick_gelu(xp: Namespace, X: Any, *, alpha: float = 1.702) -> Any:
    """F.silu, which knows an alpha of 1."""
    return F.silu(X) if alpha == 1 else X * torch.sigmoid(alpha * X)


def skip_layer_normalization(
    xp: Namespace, input: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None, *, epsilon: float = 1e-12
) -> Any:
    """torch.native_layer_norm of the sum."""
    require_shape("bias", bias, input.shape[-1])
    require_shape("gamma", gamma, input.shape[-1])
    require_shape("beta", beta, input.shape[-1])
    weights = (gamma,) if beta is None else (gamma, beta)
    if input.dtype not in WIDE or 0 in input.shape or any(w.dtype != input.dtype for w in weights):
        return NotImplemented
    total = input + skip if bias is None else input + skip + bias
    norm = fit(torch.native_layer_norm, norm_work(total), total)
    return *norm(total, (total.shape[-1],), gamma, beta, epsilon), total


def rms_normalization(
    xp: Namespace, X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Any = None
) -> Any:
    """F.rms_norm, where the scale has the shape of what is normalised and one dtype serves all."""
    shape = tuple(X.shape[axis if axis < 0 else axis - X.ndim :])
    stash = torch.float32 if stash_type is None else xp.dtype(stash_type)
    fits = X.dtype == scale.dtype and X.dtype in {stash, torch.float64} and tuple(scale.shape) == shape
    if not fits or 0 in X.shape:
        return NotImplemented
    found = _root_mean_square(X, scale, axis, epsilon)
    return fit(F.rms_norm, norm_work(X), X)(X, shape, scale, epsilon) if found is NotImplemented else found[0]


def _root_mean_square(X: Any, scale: Any, axis: int, epsilon: float) -> Any:
    """`X` over its root mean square, scaled, and 1 / that root; else NotImplemented. torch's own makes more calls."""
    axis = normal_axis(axis, X.ndim)
    shape = tuple(X.shape[axis:])
    if not inferring(X, scale) or tuple(scale.shape) != shape or 0 in X.shape:
        return NotImplemented
    length = torch.linalg.vector_norm(X, 2, tuple(range(axis, X.ndim)), True)
    inverse = torch.addcmul(torch.tensor(epsilon), length, length, value=1 / prod(shape)).rsqrt_()
    return (X * inverse).mul_(scale), inverse


def simplified_layer_normalization(
    xp: Namespace, X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Any = None
) -> Any:
    """Torch's fused one, in a session and in float32."""
    if stash_type is not None and xp.dtype(stash_type) != X.dtype:
        return NotImplemented
    return _root_mean_square(X, scale, axis, epsilon)


def skip_simplified_layer_normalization(
    xp: Namespace, input: Any, skip: Any, gamma: Any, bias: Any = None, *, epsilon: float = 1e-12
) -> Any:
    """The same of the sum."""
    require_shape("bias", bias, input.shape[-1])
    total = input + skip if bias is None else input + skip + bias
    found = _root_mean_square(total, gamma, -1, epsilon)
    if found is NotImplemented:
        return NotImplemented
    y, inverse = found
    return y, torch.zeros_like(inverse), inverse, total


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "RMSNormalization", 23): rms_normalization,
    ("", "Gelu", 20): gelu,
    ("com.microsoft", "BiasGelu", 1): bias_gelu,
    ("com.microsoft", "FastGelu", 1): fast_gelu,
    ("com.microsoft", "QuickGelu", 1): quick_gelu,
    ("com.microsoft", "SkipLayerNormalization", 1): skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization", 1): skip_simplified_layer_normalization,
    ("", "SimplifiedLayerNormalization", 1): simplified_layer_normalization,
}
