"""Quantisation: y = saturate(round(x / scale) + zero point), and products of quantised arrays.

The kernels see every dtype as it is stored, and say themselves in which one they compute: integers in int32,
floats in float32 (float64 where the input is).
"""

from __future__ import annotations

from math import prod

from ortlite import dtypes
from ortlite.dtypes import DType
from ortlite.graph import Node
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int, Ints, Text
from ortlite.ops.cast import COMPUTED, convert
from ortlite.ops.conv import add_bias, fitting_windows
from ortlite.ops.helpers import along, normal_axis, require_shape
from ortlite.ops.registry import op
from ortlite.ops.types import Inferred, Types, agreed, attribute_dtype

UINT8 = dtypes.by_name("uint8")
FLOAT32_EXACT = 2**24 // 255**2  # so many products of two 8-bit numbers add up exactly in float32


def dtype_of(xp: Namespace, x: Array) -> DType:
    """The logical dtype of an array."""
    return dtypes.by_name(xp.dtype_name(x.dtype))


def wide(xp: Namespace, x: Array) -> Array:
    """`x` in float32; float64 as it is."""
    return x if xp.dtype_name(x.dtype) in COMPUTED else xp.astype(x, xp.float32)


def broadcast_scale(xp: Namespace, v: Array, x: Array, axis: int, block_size: int = 0) -> Array:
    """A scale or zero point shaped to broadcast over `x`: one for all, one for each place along `axis`, or one a block.

    Raises ValueError for a shape that fits neither.
    """
    if prod(v.shape) == 1 and not block_size:
        return xp.reshape(v, ())
    if v.ndim == 1 and x.ndim and not block_size:
        axis = normal_axis(axis, x.ndim)
        if v.shape[0] != x.shape[axis]:
            raise ValueError(f"{v.shape[0]} scales or zero points for axis {axis} of {tuple(x.shape)}")
        return along(xp, v, axis, x.ndim)
    if v.ndim != x.ndim:
        raise ValueError(f"a scale or zero point of shape {tuple(v.shape)} does not fit {tuple(x.shape)}")
    axis = normal_axis(axis, x.ndim)
    if block_size < 0 or any(a != b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if i != axis):
        raise ValueError(
            f"a scale or zero point of shape {list(v.shape)} does not hold blocks of {block_size} along axis {axis} of "
            f"{list(x.shape)}"
        )
    block = block_size or -(-x.shape[axis] // v.shape[axis])
    if v.shape[axis] != -(-x.shape[axis] // block):
        raise ValueError(f"{v.shape[axis]} blocks of {block} along axis {axis} of {tuple(x.shape)}")
    blocks = xp.repeat(v, block, axis=axis)
    return blocks[(*(slice(None),) * axis, slice(0, x.shape[axis]), ...)]


def _require_alike(scale: Array, zero_point: Array | None) -> None:
    """Raises ValueError for a zero point of another shape than its scale; single ones may write theirs () or (1,)."""
    if zero_point is not None and (prod(scale.shape) != 1 or prod(zero_point.shape) != 1):
        require_shape("the zero point", zero_point, *scale.shape)


def saturated(xp: Namespace, y: Array, zero_point: Array | None, to: DType) -> Array:
    """Round floats half to even, add the zero point (broadcast already) and clamp to the integer type `to`."""
    y = xp.round(y)
    if zero_point is not None:
        y = y + xp.astype(zero_point, y.dtype)
    lowest = -(2 ** (to.bits - 1)) if to.kind == "i" else 0
    highest = lowest + 2**to.bits - 1
    y = xp.clip(y, lowest, highest)
    # the narrow integers have no conversion from floats in every library
    return xp.astype(xp.astype(y, xp.int8 if to.kind == "i" else xp.uint8) if to.narrow else y, xp.dtype(to))


def _quantized_type(node: Node, inputs: Types) -> Inferred:
    """The zero point's type, else the one an attribute names, else uint8."""
    if len(inputs) > 2 and inputs[2] is not None:
        return [agreed(node, "the output", inputs[2], *attribute_dtype("output_dtype")(node, inputs))]
    return attribute_dtype("output_dtype", "uint8")(node, inputs)


@op("QuantizeLinear", since=10, any_dtype=True, types=_quantized_type)
def quantize_linear(
    xp: Namespace,
    x: Array,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    axis: Int = 1,
    block_size: Int = 0,
    output_dtype: DType | None = None,
    precision: DType | None = None,
    saturate: Flag = 1,
) -> Array:
    """round(`x` / `y_scale`) + `y_zero_point` as the zero point's type, else `output_dtype`, else uint8.

    Scales are one, one for each place along `axis`, or one for each block of `block_size` along it. The quotient is
    rounded to `precision`, by default the scale's type. Raises ValueError for scales that do not fit.
    """
    _require_alike(y_scale, y_zero_point)
    to = (output_dtype or UINT8) if y_zero_point is None else dtype_of(xp, y_zero_point)
    scale = broadcast_scale(xp, y_scale, x, axis, block_size)
    quotient = xp.divide(wide(xp, x), wide(xp, scale))  # a last bit decides how a tie is rounded
    rounding = precision or dtype_of(xp, y_scale)
    if rounding.bits < 32 and rounding.kind == "f" and rounding.name != "float8_e8m0fnu":
        quotient = wide(xp, xp.astype(quotient, xp.dtype(rounding)))
    if to.kind == "f":
        return convert(xp, quotient, to, bool(saturate))
    return saturated(
        xp, quotient, None if y_zero_point is None else broadcast_scale(xp, y_zero_point, x, axis, block_size), to
    )


@op("DequantizeLinear", since=10, any_dtype=True, types=attribute_dtype("output_dtype", like=1))
def dequantize_linear(
    xp: Namespace,
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None = None,
    *,
    axis: Int = 1,
    block_size: Int = 0,
    output_dtype: DType | None = None,
) -> Array:
    """(`x` - `x_zero_point`) · `x_scale` in the scale's type or `output_dtype`; see QuantizeLinear for the shapes."""
    _require_alike(x_scale, x_zero_point)
    to = xp.dtype(output_dtype) if output_dtype else x_scale.dtype
    y = centred(xp, x, None if x_zero_point is None else broadcast_scale(xp, x_zero_point, x, axis, block_size))
    return xp.astype(wide(xp, y) * wide(xp, broadcast_scale(xp, x_scale, x, axis, block_size)), to)


def centred(xp: Namespace, x: Array, zero_point: Array | None) -> Array:
    """`x` - `zero_point` (broadcast already), exactly: in int32 for integers, else in float32."""
    exact = xp.int32 if dtype_of(xp, x).kind in "iu" else xp.float32
    return xp.astype(x, exact) if zero_point is None else xp.subtract(xp.astype(x, exact), xp.astype(zero_point, exact))


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(xp: Namespace, x: Array) -> tuple[Array, Array, Array]:
    """`x` as uint8, with the scale and zero point that make its range, extended to hold 0, fill 0 to 255."""
    zero = xp.zeros((), dtype=x.dtype)
    lowest = xp.minimum(xp.min(x), zero) if prod(x.shape) else zero
    highest = xp.maximum(xp.max(x), zero) if prod(x.shape) else zero
    scale = xp.divide(highest - lowest, xp.asarray(255.0, dtype=x.dtype))
    scale = xp.where(scale == 0, xp.ones_like(scale), scale)
    zero_point = xp.clip(xp.round(xp.divide(-lowest, scale)), 0, 255)
    y = xp.clip(xp.round(xp.divide(x, scale)) + zero_point, 0, 255)
    return xp.astype(y, xp.uint8), scale, xp.astype(zero_point, xp.uint8)


def by_row(xp: Namespace, v: Array) -> Array:
    """Scales or zero points of the rows of a matrix: a vector becomes a column."""
    return xp.expand_dims(v, axis=1) if v.ndim == 1 and v.shape[0] > 1 else v


def _product(xp: Namespace, a: Array, a_zero: Array | None, b: Array, b_zero: Array | None) -> Array:
    """(a - a_zero) @ (b - b_zero): int32 from integers, float32 from floats. Zero points of `a` count by row."""
    for name, v, n in (("a_zero_point", a_zero, a.shape[-2:-1]), ("b_zero_point", b_zero, b.shape[-1:])):
        if v is not None and v.ndim == 1 and v.shape[0] != 1:
            require_shape(name, v, *n)
    left = centred(xp, a, None if a_zero is None else by_row(xp, a_zero))
    right = centred(xp, b, b_zero)
    if left.dtype != right.dtype:  # one of them is quantised to floats
        left, right = wide(xp, left), wide(xp, right)
    return xp.matmul(left, right) if left.dtype == xp.float32 else xp.integer_matmul(left, right, xp.int32)


@op("MatMulInteger", since=10, any_dtype=True)
def matmul_integer(
    xp: Namespace, A: Array, B: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None
) -> Array:
    """(`A` - `a_zero_point`) @ (`B` - `b_zero_point`) in int32; zero points are single, or by row of A, column of B."""
    return _product(xp, A, a_zero_point, B, b_zero_point)


@op("QLinearMatMul", since=10, any_dtype=True)
def qlinear_matmul(
    xp: Namespace,
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """The product of two quantised matrices, quantised. Scales and zero points as in MatMulInteger."""
    product = _product(xp, a, a_zero_point, b, b_zero_point)
    return requantised_product(xp, product, a_scale, b_scale, y_scale, y_zero_point)


def requantised_product(
    xp: Namespace, product: Array, a_scale: Array, b_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """A product of quantised matrices, quantised; scales and zero points as in MatMulInteger."""
    factor = xp.divide(wide(xp, by_row(xp, a_scale)) * wide(xp, b_scale), wide(xp, by_row(xp, y_scale)))
    return _requantised(xp, xp.astype(product, factor.dtype) * factor, by_row(xp, y_zero_point))


def _requantised(xp: Namespace, y: Array, zero_point: Array) -> Array:
    """A float result as the zero point's type."""
    to = dtype_of(xp, zero_point)
    return convert(xp, y, to) if to.kind == "f" else saturated(xp, y, zero_point, to)


def _convolution(
    xp: Namespace,
    x: Array,
    w: Array,
    x_zero: Array | None,
    w_zero: Array | None,
    auto_pad: str,
    dilations: Ints | None,
    group: int,
    kernel_shape: Ints | None,
    pads: Ints | None,
    strides: Ints | None,
) -> Array:
    """The int32 convolution of x - x_zero with w - w_zero (one, or one a channel), computed exactly in floats."""
    strides, dilations, padding = fitting_windows(
        x.shape, w.shape, group, kernel_shape, strides, dilations, pads, auto_pad
    )
    exact = xp.float32 if prod(w.shape[1:]) <= FLOAT32_EXACT else getattr(xp, "float64", xp.int32)
    left = centred(xp, x, None if x_zero is None else xp.reshape(x_zero, ()))
    right = centred(xp, w, None if w_zero is None else broadcast_scale(xp, w_zero, w, 0))
    y = xp.conv(
        xp.astype(left, exact),
        xp.astype(right, exact),
        strides=strides,
        pads=padding,
        dilations=dilations,
        groups=group,
    )
    return xp.astype(y, xp.int32)


@op("ConvInteger", since=10, any_dtype=True)
def conv_integer(
    xp: Namespace,
    x: Array,
    w: Array,
    x_zero_point: Array | None = None,
    w_zero_point: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve integers less their zero points, in int32. Raises ValueError when channels and groups do not fit."""
    return _convolution(xp, x, w, x_zero_point, w_zero_point, auto_pad, dilations, group, kernel_shape, pads, strides)


@op("QLinearConv", since=10, any_dtype=True)
def qlinear_conv(
    xp: Namespace,
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    B: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve quantised arrays and quantise the result; `w_scale` and `w_zero_point` are one, or one a channel.

    `B` is int32, in units of `x_scale` · `w_scale`. Raises ValueError when channels and groups do not fit.
    """
    y = _convolution(xp, x, w, x_zero_point, w_zero_point, auto_pad, dilations, group, kernel_shape, pads, strides)
    y = add_bias(xp, y, B)
    for name, v in (("x_scale", x_scale), ("y_scale", y_scale)):
        if prod(v.shape) != 1:
            raise ValueError(f"{name} must hold one element, not the shape {list(v.shape)}")
    factor = xp.divide(wide(xp, x_scale) * wide(xp, w_scale), wide(xp, y_scale))
    y = xp.astype(y, factor.dtype) * broadcast_scale(xp, factor, y, 1)
    return _requantised(xp, y, xp.reshape(y_zero_point, ()))
