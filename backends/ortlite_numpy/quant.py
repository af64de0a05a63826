"""Products and convolutions of integers on NumPy, exactly, in floats: weights less their zero points are prepared once.

A float32 sum of products is exact while no partial sum reaches 2^24. No partial sum of a column is larger than the
sum of its weights' sizes times the largest element that meets them, which is 255 for 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops import conv as kernels
from ortlite.ops import quant
from ortlite.ops.contrib import experts, packed
from ortlite.ops.contrib import quant as contrib
from ortlite.ops.helpers import require_shape
from ortlite.provider import CPU, create
from ortlite_numpy import conv, products
from ortlite_numpy.record import numpy as np

__all__ = ["OVERRIDES"]

BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
LARGEST = 255  # of an 8-bit number less its zero point
EXACT = 2**24  # below which float32 holds every integer


def by_column(b: Any, zero: Any, turned: int = 0) -> tuple[Any, int]:
    """`b`, transposed where `turned`, less its zero points as float32, and a bound of the partial sums with bytes."""
    wide = (b.T if turned else b).astype(np.float32)
    if zero is not None:
        wide -= zero.astype(np.float32)
    return wide, LARGEST * int(np.abs(wide).sum(axis=0, dtype=np.float64).max())


def integer_product(xp: Namespace, a: Any, a_zero: Any, b: Any, b_zero: Any, derived: Any, turned: int = 0) -> Any:
    """(a - a_zero) @ (b - b_zero) in int32, `b` one matrix of 8-bit numbers, or its transpose; else NotImplemented."""
    total = whole_product(xp, a, a_zero, b, b_zero, derived, turned)
    return total if total is NotImplemented else total.astype(np.int32, copy=False)


def whole_product(xp: Namespace, a: Any, a_zero: Any, b: Any, b_zero: Any, derived: Any, turned: int = 0) -> Any:
    """The same, in float32 where that holds it exactly."""
    if a.dtype not in BYTES or b.dtype not in BYTES or b.ndim != 2 or a.ndim < 2 or 0 in {*a.shape, *b.shape}:
        return NotImplemented
    depth, columns = b.shape[::-1] if turned else b.shape
    for v, dtype, shapes in ((a_zero, a.dtype, {(), (1,), (a.shape[-2],)}), (b_zero, b.dtype, {(), (1,), (columns,)})):
        if v is not None and (v.dtype != dtype or v.shape not in shapes):
            return NotImplemented
    if a.shape[-1] != depth:
        return NotImplemented  # the kernel says what is wrong
    wide, bound = derived(by_column, b, b_zero, turned)
    left = a.astype(np.float32)
    if a_zero is not None:
        left -= quant.by_row(xp, a_zero).astype(np.float32)
    return product_in_parts(left, wide, bound, getattr(xp, "threads", 1))


def product_in_parts(left: Any, wide: Any, bound: int, threads: int) -> Any:
    """The product of whole numbers in float32: at once where it holds their `bound`, else by parts, added in int32."""
    if bound < EXACT:
        return products.product(left, wide, threads)
    depth = wide.shape[0]
    step = EXACT // (LARGEST * LARGEST)
    total = 0
    for start in range(0, depth, step):
        part = products.product(left[..., start : start + step], wide[start : start + step], threads)
        total = total + part.astype(np.int32)
    return total


def matmul_integer(
    xp: Namespace, A: Any, B: Any, a_zero_point: Any = None, b_zero_point: Any = None, *, derived: Any = at_once
) -> Any:
    """In floats."""
    return integer_product(xp, A, a_zero_point, B, b_zero_point, derived)


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
        return NotImplemented
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
    """The product in floats, scaled in place."""
    total = whole_product(xp, A, a_zero_point, B, b_zero_point, derived)
    if total is NotImplemented:
        return NotImplemented
    columns, shapes = B.shape[-1:], {(), (1,), B.shape[-1:]}
    if a_scale.dtype != np.float32 or a_scale.size != 1 or b_scale.shape not in shapes or b_scale.dtype != np.float32:
        return contrib.scaled(xp, total, a_scale, b_scale, bias)
    if bias is not None and (bias.shape != columns or bias.dtype != np.float32):
        return contrib.scaled(xp, total, a_scale, b_scale, bias)
    y = total.astype(np.float32, copy=False)
    y *= a_scale.reshape(()) * b_scale
    if bias is not None:
        y += bias
    return y


def dynamic_quantize_matmul(
    xp: Namespace, A: Any, B: Any, b_scale: Any, b_zero_point: Any = None, bias: Any = None, *, derived: Any = at_once
) -> Any:
    """The product in floats."""
    quantised = dynamic_quantize_linear(xp, A)
    if quantised is NotImplemented:
        return NotImplemented
    a, a_scale, a_zero_point = quantised
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
    if transA or A.ndim != 2 or a_zero_point.size != 1:
        return NotImplemented
    total = integer_product(xp, A, a_zero_point, B, b_zero_point, derived, transB)
    if total is NotImplemented:
        return NotImplemented
    return contrib.finished(xp, total, A, a_scale, b_scale, C, y_scale, y_zero_point, alpha)


def blockwise_weights(*args: Any) -> Any:
    """The kernel's, under one name by which `derived` knows what was made."""
    return contrib.blockwise_weights(create(CPU).xp, *args)


def matmul_nbits(
    xp: Namespace,
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
    """Weights that are constants become floats once."""
    if weight_prepacked or A.dtype.char not in "ef" or A.shape[-1] != K or not lasting(derived, B):
        return NotImplemented
    require_shape("bias", bias, N)
    w = derived(blockwise_weights, B, scales, zero_points, g_idx, K, N, bits, block_size)
    y = products.product(A.astype(np.float32, copy=False), w.T, xp.threads)
    if bias is not None:
        y += bias.astype(np.float32, copy=False)
    return y.astype(A.dtype, copy=False)


def bnb4_weights(*args: Any) -> Any:
    """The kernel's, likewise."""
    return packed.bnb4_weights(create(CPU).xp, *args)


def matmul_bnb4(
    xp: Namespace,
    A: Any,
    B: Any,
    absmax: Any,
    *,
    K: int,
    N: int,
    block_size: int,
    quant_type: int,
    training_mode: int = 0,
    transB: int = 1,
    derived: Any = at_once,
) -> Any:
    """Weights that are constants become floats once."""
    if A.dtype.char not in "ef" or A.shape[-1] != (K if transB else N) or not lasting(derived, B):
        return NotImplemented
    w = derived(bnb4_weights, B, absmax, N, K, block_size, quant_type)
    return products.product(A.astype(np.float32, copy=False), w.T if transB else w, xp.threads).astype(
        A.dtype, copy=False
    )


def expert_weights(*args: Any) -> Any:
    """The kernel's, likewise."""
    return experts.expert_weights(create(CPU).xp, *args)


def qmoe(
    xp: Namespace,
    input: Any,
    router_probs: Any,
    fc1_experts_weights: Any,
    fc1_scales: Any,
    fc1_experts_bias: Any,
    fc2_experts_weights: Any,
    fc2_scales: Any,
    fc2_experts_bias: Any = None,
    fc3_experts_weights: Any = None,
    fc3_scales: Any = None,
    fc3_experts_bias: Any = None,
    fc1_zero_points: Any = None,
    fc2_zero_points: Any = None,
    fc3_zero_points: Any = None,
    router_weights: Any = None,
    fc1_global_scale: Any = None,
    fc2_global_scale: Any = None,
    fc1_act_scale: Any = None,
    fc2_act_scale: Any = None,
    fc1_act_block_scale: Any = None,
    fc2_act_block_scale: Any = None,
    *,
    accuracy_level: int = 0,
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    activation_type: str = "relu",
    block_size: int = 0,
    expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int = 0,
    fc2_expert_weight_bits: int = 0,
    fc3_expert_weight_bits: int = 0,
    k: int = 1,
    normalize_routing_weights: int = 0,
    quant_type: str = "int",
    swiglu_fusion: int = 0,
    swiglu_limit: float | None = None,
    swiglu_limit_after_activation: int = 0,
    use_sparse_mixer: int = 0,
    weights_prepacked: int = -1,
    derived: Any = at_once,
) -> Any:
    """The weights of an expert, where they are constants, become floats when it is first asked for."""
    if quant_type != "int" or not lasting(derived, fc1_experts_weights):
        return NotImplemented
    return experts.packed_mixture(
        xp, partial(derived, expert_weights), input, router_probs, router_weights,
        (
            (fc1_experts_weights, fc1_scales, fc1_zero_points, fc1_experts_bias, fc1_expert_weight_bits),
            (fc2_experts_weights, fc2_scales, fc2_zero_points, fc2_experts_bias, fc2_expert_weight_bits),
            (fc3_experts_weights, fc3_scales, fc3_zero_points, fc3_experts_bias, fc3_expert_weight_bits),
        ),
        expert_weight_bits, block_size, k, normalize_routing_weights, activation_type, swiglu_fusion,
        activation_alpha, activation_beta, swiglu_limit, swiglu_limit_after_activation,
    )  # fmt: skip


def centred_weights(w: Any, zero: Any) -> Any:
    """The weights of a convolution less their zero points as float32."""
    wide = w.astype(np.float32)
    return wide if zero is None else wide - zero.astype(np.float32).reshape(-1, *(1,) * (w.ndim - 1))


def bound_of(w: Any, zero: Any) -> int:
    """A bound of the partial sums with 8-bit numbers."""
    sizes = np.abs(centred_weights(w, zero)).sum(axis=tuple(range(1, w.ndim)), dtype=np.float64)
    return LARGEST * int(sizes.max(initial=0))


def prepared(w: Any, zero: Any, exact: str, make: Callable[..., Any], *rest: Any) -> Any:
    """What `make` prepares from the weights less their zero points."""
    return make(centred_weights(w, zero).astype(exact, copy=False), *rest)


def _convolution(
    xp: Namespace,
    x: Any,
    w: Any,
    x_zero: Any,
    w_zero: Any,
    attributes: dict[str, Any],
    derived: Any,
    finish: Callable[[Any, Any], None] | None = None,
) -> Any:
    """The convolution of x - x_zero with w - w_zero as exact floats, changed by `finish`; else NotImplemented."""
    if x.dtype not in BYTES or w.dtype not in BYTES or x.ndim < 3 or w.ndim != x.ndim:
        return NotImplemented
    for v, dtype, most in ((x_zero, x.dtype, 1), (w_zero, w.dtype, w.shape[0])):
        if v is not None and (v.dtype != dtype or v.ndim > 1 or v.size not in {1, most}):
            return NotImplemented
    group, pads, auto_pad = attributes["group"], attributes["pads"], attributes["auto_pad"]
    strides, dilations, pads = kernels.fitting_windows(
        x.shape, w.shape, group, attributes["kernel_shape"], attributes["strides"], attributes["dilations"], pads,
        auto_pad,
    )  # fmt: skip
    exact = "float32" if derived(bound_of, w, w_zero) < EXACT else "float64"
    images = x.astype(exact)
    if x_zero is not None:
        images -= x_zero.astype(exact).reshape(())
    return conv.convolved(
        images, w, strides=strides, pads=pads, dilations=dilations, groups=group, threads=xp.threads, finish=finish,
        derived=lambda fn, _, *rest: derived(prepared, w, w_zero, exact, fn, *rest),
    )  # fmt: skip


def conv_integer(
    xp: Namespace,
    x: Any,
    w: Any,
    x_zero_point: Any = None,
    w_zero_point: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """In floats, with channels last in memory."""
    given = {
        "auto_pad": auto_pad, "dilations": dilations, "group": group, "kernel_shape": kernel_shape, "pads": pads,
        "strides": strides,
    }  # fmt: skip
    y = _convolution(xp, x, w, x_zero_point, w_zero_point, given, derived)
    return y if y is NotImplemented else y.astype(np.int32)


def qlinear_conv(
    xp: Namespace,
    x: Any,
    x_scale: Any,
    x_zero_point: Any,
    w: Any,
    w_scale: Any,
    w_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """Scaled, rounded and clamped block by block, as floats that hold every integer that occurs."""
    given = {
        "auto_pad": auto_pad, "dilations": dilations, "group": group, "kernel_shape": kernel_shape, "pads": pads,
        "strides": strides,
    }  # fmt: skip
    scales = (x_scale, w_scale, y_scale)
    if any(v.dtype != np.float32 for v in scales) or w_scale.ndim > 1 or w_scale.size not in {1, w.shape[0]}:
        return NotImplemented
    if x_scale.size != 1 or y_scale.size != 1 or y_zero_point.dtype not in BYTES or y_zero_point.size != 1:
        return NotImplemented
    if B is not None and (B.dtype != np.int32 or np.abs(B.astype(np.int64)).max(initial=0) >= EXACT):
        return NotImplemented
    require_shape("the bias B", B, w.shape[0])
    limits = np.iinfo(y_zero_point.dtype)
    factor = (x_scale.reshape(()) * w_scale.reshape(-1 if w_scale.size > 1 else ()) / y_scale.reshape(())).astype("f4")
    zero = np.float32(y_zero_point.reshape(()))
    bias = None if B is None else B.astype(np.float32)

    def finish(block: Any, _: Any) -> None:
        if bias is not None:
            block += bias
        if block.dtype != np.float32:  # the kernel scales sums as float32
            block[...] = block.astype(np.float32)
        block *= factor
        np.rint(block, out=block)
        block += zero
        np.clip(block, float(limits.min), float(limits.max), out=block)

    y = _convolution(xp, x, w, x_zero_point, w_zero_point, given, derived, finish)
    return y if y is NotImplemented else y.astype(y_zero_point.dtype)


def _along(v: Any, x: Any, axis: int) -> Any:
    """A scale or zero point to broadcast over `x`: one, or one for each place along `axis`; else None."""
    if v.size == 1 and v.ndim <= 1:
        return v.reshape(())
    if v.ndim != 1 or not x.ndim or not -x.ndim <= axis < x.ndim or v.shape[0] != x.shape[axis]:
        return None
    return v.reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim))


def quantize_linear(
    xp: Namespace,
    x: Any,
    y_scale: Any,
    y_zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Any = None,
    precision: Any = None,
    saturate: int = 1,
) -> Any:
    """float32 to 8 bits in place; the quotient is that of float32."""
    if x.dtype != np.float32 or y_scale.dtype != np.float32 or block_size or precision is not None or not x.ndim:
        return NotImplemented
    if y_zero_point is None:
        to = np.dtype(np.uint8) if output_dtype is None else np.dtype(xp.dtype(output_dtype))
    else:
        to = y_zero_point.dtype
    scale = _along(y_scale, x, axis)
    if to not in BYTES or scale is None or (y_zero_point is not None and y_zero_point.shape != y_scale.shape):
        return NotImplemented
    y = np.divide(x, scale)
    np.rint(y, out=y)
    if y_zero_point is not None:
        y += _along(y_zero_point, x, axis).astype(np.float32)
    limits = np.iinfo(to)
    np.clip(y, np.float32(limits.min), np.float32(limits.max), out=y)
    return y.astype(to)


def dequantize_linear(
    xp: Namespace,
    x: Any,
    x_scale: Any,
    x_zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Any = None,
) -> Any:
    """8 bits to float32 in place."""
    if x.dtype not in BYTES or x_scale.dtype != np.float32 or block_size or output_dtype is not None:
        return NotImplemented
    scale = _along(x_scale, x, axis)
    if scale is None or (x_zero_point is not None and x_zero_point.shape != x_scale.shape):
        return NotImplemented
    y = x.astype(np.float32)
    if x_zero_point is not None:
        y -= _along(x_zero_point, x, axis).astype(np.float32)
    y *= scale
    return y


def dynamic_quantize_linear(xp: Namespace, x: Any) -> Any:
    """In place."""
    if x.dtype != np.float32 or x.size == 0 or not x.ndim:
        return NotImplemented
    lowest, highest = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = (highest - lowest) / np.float32(255)
    scale = scale + (scale == 0)  # 1 in place of 0
    zero = np.clip(np.rint(-lowest / scale), np.float32(0), np.float32(255))
    y = np.divide(x, scale)
    np.rint(y, out=y)
    y += zero
    np.clip(y, np.float32(0), np.float32(255), out=y)
    return y.astype(np.uint8), np.asarray(scale), np.asarray(zero.astype(np.uint8))


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "QuantizeLinear", 10): quantize_linear,
    ("", "DequantizeLinear", 10): dequantize_linear,
    ("", "DynamicQuantizeLinear", 11): dynamic_quantize_linear,
    ("", "MatMulInteger", 10): matmul_integer,
    ("", "QLinearMatMul", 10): qlinear_matmul,
    ("", "ConvInteger", 10): conv_integer,
    ("", "QLinearConv", 10): qlinear_conv,
    ("com.microsoft", "QGemm", 1): qgemm,
    ("com.microsoft", "MatMulNBits", 1): matmul_nbits,
    ("com.microsoft", "MatMulBnb4", 1): matmul_bnb4,
    ("com.microsoft", "QMoE", 1): qmoe,
    ("com.microsoft", "MatMulIntegerToFloat", 1): matmul_integer_to_float,
    ("com.microsoft", "DynamicQuantizeMatMul", 1): dynamic_quantize_matmul,
}
