"""The option `precision`: products, convolutions and attention in a short type; all else stays in float32.

Weights are converted once a session. Sums, norms, softmax, biases and activations are float32, and so are the model's
inputs and outputs. Where the processor does not compute in bfloat16, both factors are rounded to it and multiplied in
float32: the answer has bfloat16's error, and takes as long as without the option. On a processor small products stay
in float32, but for those with a large weight: to convert their factors takes longer than MKL takes for the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, wraps
from math import prod
from typing import Any

import torch

from ortlite.derived import at_once
from ortlite.namespace import Namespace
from ortlite.ops import registry
from ortlite.ops.contrib.fused import parameters
from ortlite.ops.conv import conv as conv_kernel
from ortlite.schema import OWN
from ortlite_torch import onednn, ops, products
from ortlite_torch.threads import product_work

__all__ = ["TYPES", "overrides", "reason", "short"]

TYPES = ("float32", "bfloat16", "float16")
# From how many multiplications on the short type pays on a processor: of a product, and of attention's first one.
PRODUCT, ATTENTION = 1 << 24, 1 << 22
MS = "com.microsoft"
# Kernels that multiply what was computed: matmul, conv and their like of the namespace become short in them.
INNER: tuple[tuple[str, str, int], ...] = (
    ("", "Attention", 23),
    ("", "Attention", 24),
    ("", "ConvTranspose", 1),
    ("", "Einsum", 12),
    (MS, "FusedGemm", 1),
    (MS, "FusedMatMul", 1),
    (MS, "GroupQueryAttention", 1),
    (MS, "MultiHeadAttention", 1),
    (MS, "TransposeMatMul", 1),
)


def computes(dtype: Any, device: Any) -> bool:
    """Whether the device multiplies in that type."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def reason(name: str, device: Any) -> str | None:
    """Why a session cannot have that precision there."""
    if name not in TYPES:
        return f"the option precision of TorchExecutionProvider is one of {', '.join(TYPES)}, not {name!r}"
    if name == "float16" and device.type == "cpu":
        return "precision='float16' is for device='cuda': processors sum it in float16; take bfloat16"
    return None


@cache
def cutting(dtype: Any, there: bool) -> Callable[[Any], Any]:
    """What makes of a tensor of float32 the factor that is multiplied."""

    def cut(x: Any) -> Any:
        return x.to(dtype) if there else x.to(dtype).to(torch.float32)

    return cut


def _light(a: Any, b: Any, limit: int) -> bool:
    """Whether float32 is as fast: a product of fewer multiplications, and not by a large matrix, most likely a weight,
    of which the short type has half to read.
    """
    small = b.ndim > 2 or prod(b.shape) < products.LARGE
    return bool(a.device.type == "cpu" and small and product_work(a, b) < 2 * limit)


def _single(*tensors: Any) -> bool:
    return all(x.dtype == torch.float32 for x in tensors)


def _has_past(rest: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether keys and values of before are among the arguments behind V."""
    return any(x is not None for x in (*rest[1:3], given.get("past_key"), given.get("past_value")))


def _has_float_mask(rest: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether what is added to the scores would be rounded: float32's lowest number becomes -inf in a short type."""
    mask = rest[0] if rest else given.get("attn_mask")
    return mask is not None and mask.dtype != torch.bool


def short(fn: Callable[..., Any], cut: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function of two tensors or more, computed of what `cut` leaves of those of float32."""

    def apply(*args: Any, **keywords: Any) -> Any:  # no `wraps`: Dynamo, which makes namespaces anew, leaves off there
        if not any(isinstance(x, torch.Tensor) and x.dtype == torch.float32 for x in args):
            return fn(*args, **keywords)
        given = [cut(x) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x for x in args]
        y = fn(*given, **keywords)
        return y if y is NotImplemented else y.to(torch.float32)

    return apply


def overrides(dtype: Any, device: Any) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
    """Those that multiply in the short type, in place of the provider's."""
    there = computes(dtype, device)
    cut = cutting(dtype, there)

    @lru_cache(maxsize=1)  # every call of every kernel asks
    def namespace(xp: Namespace) -> Namespace:
        made = {name: short(getattr(xp, name), cut) for name in ("matmul", "conv", "conv_transpose", "einsum")}

        def matmul(a: Any, b: Any, **keywords: Any) -> Any:
            return (xp.matmul if _light(a, b, PRODUCT) else made["matmul"])(a, b, **keywords)

        return Namespace(xp.library, {**vars(xp), **made, "matmul": matmul})

    def inner(key: tuple[str, str, int]) -> Callable[..., Any]:
        kernel = registry.lookup(*key)
        assert kernel is not None
        fn = kernel.fn

        @wraps(fn)
        def apply(xp: Namespace, *args: Any, **keywords: Any) -> Any:
            return fn(namespace(xp), *args, **keywords)

        return apply

    @wraps(products.matmul)
    def matmul(xp: Namespace, A: Any, B: Any, *, derived: Any = at_once) -> Any:
        derived = at_once if torch.compiler.is_compiling() else derived
        if not _single(A, B) or not A.ndim or not B.ndim:
            return NotImplemented
        y = products.packed_product(A, B, None, False, derived, cut)
        if y is NotImplemented:
            if _light(A, B, PRODUCT):
                return NotImplemented
            y = xp.matmul(derived(cut, A), derived(cut, B))
        return y.to(torch.float32)

    @wraps(products.gemm)
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
        derived = at_once if torch.compiler.is_compiling() else derived
        if not _single(A, B) or not A.ndim == B.ndim == 2:
            return NotImplemented
        a = A.T if transA else A
        y = products.packed_product(a, B, None, bool(transB), derived, cut)
        if y is NotImplemented:
            if _light(a, B.T if transB else B, PRODUCT):
                return NotImplemented
            b = derived(cut, B)
            y = xp.matmul(cut(a), b.T if transB else b)
        y = y.to(torch.float32)
        y = y if alpha == 1 else y * alpha
        if C is None or beta == 0:
            return y
        if torch.broadcast_shapes(y.shape, C.shape) != y.shape:
            return NotImplemented  # the kernel says what is wrong
        return y + (C if beta == 1 else C * beta)

    @wraps(products.linear_row)
    def linear_row(xp: Namespace, X: Any, W: Any, B: Any, *, derived: Any = at_once) -> Any:
        y = matmul(xp, X, W, derived=derived) if B.dtype == torch.float32 else NotImplemented
        return y if y is NotImplemented else y + B

    def convolved(xp: Namespace, X: Any, W: Any, B: Any, derived: Any, given: dict[str, Any]) -> Any:
        """The convolution without its bias, and whether it was one."""
        derived = at_once if torch.compiler.is_compiling() else derived
        if not _single(X, W):
            return NotImplemented
        windows = [given.get(name) for name in ("kernel_shape", "strides", "dilations", "pads")]
        place = (given.get("group", 1), *windows, given.get("auto_pad", "NOTSET"))
        y = onednn.packed_convolution(X, W, None, place, derived, cut)
        if y is NotImplemented:
            y = conv_kernel(xp, cut(X), derived(cut, W), **given)
        y = y.to(torch.float32)
        if B is None:
            return y
        if tuple(B.shape) != (y.shape[1],):
            return NotImplemented
        return y + B.reshape(-1, *(1,) * (y.ndim - 2))

    @wraps(onednn.conv)
    def conv(xp: Namespace, X: Any, W: Any, B: Any = None, *, derived: Any = at_once, **given: Any) -> Any:
        return convolved(xp, X, W, B, derived, given)

    @wraps(onednn.fused_conv)
    def fused_conv(
        xp: Namespace, X: Any, W: Any, B: Any = None, Z: Any = None, *, derived: Any = at_once, **given: Any
    ) -> Any:
        activation, params = given.pop("activation", ""), given.pop("activation_params", None)
        if activation not in onednn.ACTIVATIONS or torch.is_grad_enabled():
            return NotImplemented
        y = convolved(xp, X, W, B, derived, given)
        if y is NotImplemented or (Z is not None and (Z.shape != y.shape or Z.dtype != y.dtype)):
            return NotImplemented
        y = y if Z is None else y + Z
        return onednn.ACTIVATIONS[activation](y, *parameters(activation, params))

    def attends(by_kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(ops.attention)
        def attention(xp: Namespace, Q: Any, K: Any, V: Any, *rest: Any, n_outputs: int = 1, **given: Any) -> Any:
            if K.ndim > 2 and _light(Q, K.mT, ATTENTION):
                return ops.attention(xp, Q, K, V, *rest, n_outputs=n_outputs, **given)
            kept = _has_past(rest, given) or (there and _has_float_mask(rest, given))
            if n_outputs == 1 and _single(Q, K, V) and not kept:
                y = ops.attention(xp, cut(Q), cut(K), cut(V), *rest, n_outputs=1, **given)
                if y is not NotImplemented:
                    return (y[0].to(torch.float32), *y[1:])
            return by_kernel(xp, Q, K, V, *rest, n_outputs=n_outputs, **given)

        return attention

    ours = {key: inner(key) for key in INNER} | {
        ("", "MatMul", 1): matmul,
        ("", "Gemm", 7): gemm,
        (OWN, "Linear", 1): linear_row,
        ("", "Conv", 1): conv,
        (MS, "FusedConv", 1): fused_conv,
        **{key: attends(inner(key)) for key in INNER if key[1] == "Attention"},
    }
    for fn in ours.values():
        fn.__module__ = __name__  # as explain() shows it
    return ours
