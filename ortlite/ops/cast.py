"""Conversions between element types. Kernels here see narrow dtypes as they are stored."""

from __future__ import annotations

from ortlite import dtypes
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Flag, Text
from ortlite.ops.registry import op
from ortlite.ops.types import attribute_dtype

# What saturates where: (largest finite value, has infinities). Conversions to these clamp, unless `saturate` is 0.
FLOAT8 = {
    "float8_e4m3fn": (448.0, False),
    "float8_e4m3fnuz": (240.0, False),
    "float8_e5m2": (57344.0, True),
    "float8_e5m2fnuz": (57344.0, False),
}
SMALL_FLOATS = {"float4_e2m1fn": 6.0, "float6_e2m3fn": 7.5, "float6_e3m2fn": 28.0}
COMPUTED = ("float32", "float64")
SPECIAL = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}


@op("Cast", since=6, any_dtype=True, views=True, types=attribute_dtype("to"))
def cast(xp: Namespace, input: Array, *, to: DType, saturate: Flag = 1, round_mode: Text = "up") -> Array:
    """`input` as `to`.

    Floats become integers by truncation; float8 clamps with `saturate`, else overflows to infinity or NaN; the
    narrower floats always clamp; `round_mode` (up, down, nearest) is for float8e8m0. Strings are parsed and printed.
    """
    return convert(xp, input, to, bool(saturate), round_mode)


@op("Cast", any_dtype=True, views=True, types=attribute_dtype("to"))
def cast_1(xp: Namespace, input: Array, *, to: Text) -> Array:
    """`input` as the type that `to` spells, such as "FLOAT" or "INT64"."""
    names = {"DOUBLE": "float64", "FLOAT": "float32"}
    return convert(xp, input, dtypes.by_name(names.get(to, to.lower())))


@op("CastLike", since=15, any_dtype=True, views=True)
def cast_like(xp: Namespace, input: Array, target_type: Array, *, saturate: Flag = 1, round_mode: Text = "up") -> Array:
    """`input` in the dtype of `target_type`; see Cast."""
    return convert(xp, input, dtypes.by_name(xp.dtype_name(target_type.dtype)), bool(saturate), round_mode)


@op("BitCast", since=26, any_dtype=True, views=True, needs=("bit_view",), types=attribute_dtype("to"))
def bit_cast(xp: Namespace, input: Array, *, to: DType) -> Array:
    """The bits of `input` read as `to`, a type of the same width. Raises ValueError for another width."""
    source = dtypes.by_name(xp.dtype_name(input.dtype))
    if source.bits != to.bits:
        raise ValueError(f"{source} has {source.bits} bits, {to} {to.bits}: BitCast keeps the width")
    return xp.bit_view(input, xp.dtype(to))


def convert(xp: Namespace, x: Array, to: DType, saturate: bool = True, round_mode: str = "up") -> Array:
    """`x` as `to`, by ONNX's rules."""
    source = dtypes.by_name(xp.dtype_name(x.dtype))
    if source is to:
        return x
    if "S" in {source.kind, to.kind}:
        return _text(xp, x, source, to, saturate, round_mode)
    if source.kind == "f" and source.name not in COMPUTED:
        x = xp.astype(x, xp.float32)  # exact, and every library converts on from there
    if to.kind == "b":
        return x != 0 if source.bits >= 8 else xp.astype(x, xp.int8) != 0
    if to.name in FLOAT8:
        return _to_float8(xp, x, to, saturate)
    if to.name in SMALL_FLOATS:
        limit = SMALL_FLOATS[to.name]
        wide = _float32(xp, x)
        return xp.astype(xp.where(xp.isnan(wide), wide, xp.clip(wide, -limit, limit)), xp.dtype(to))
    if to.name == "float8_e8m0fnu":
        return _to_power(xp, _float32(xp, x), to, saturate, round_mode)
    if to.bits < 8 and to.kind in "iu":
        whole = xp.astype(x, xp.int32) if source.kind == "f" else x
        return xp.astype(_wrapped(xp, whole, to), xp.dtype(to))
    if source.bits < 8 and source.kind in "iu" and to.narrow:
        x = xp.astype(x, xp.int8)
    return xp.astype(x, xp.dtype(to))


def _float32(xp: Namespace, x: Array) -> Array:
    return x if xp.dtype_name(x.dtype) == "float32" else xp.astype(x, xp.float32)


def _wrapped(xp: Namespace, x: Array, to: DType) -> Array:
    """The low bits of integers, read as a signed or unsigned integer of the width of `to`."""
    x = xp.astype(x, xp.int64)
    low = xp.bitwise_and(x, xp.asarray(2**to.bits - 1, dtype=xp.int64))
    if to.kind == "i":
        low = xp.where(low >= 2 ** (to.bits - 1), low - 2**to.bits, low)
    return xp.astype(low, xp.int8 if to.kind == "i" else xp.uint8)


def _to_float8(xp: Namespace, x: Array, to: DType, saturate: bool) -> Array:
    limit, infinities = FLOAT8[to.name]
    wide = x if xp.dtype_name(x.dtype) in COMPUTED else xp.astype(x, xp.float32)
    if saturate:
        wide = xp.where(xp.isnan(wide), wide, xp.clip(wide, -limit, limit))
    elif not infinities:
        # what rounds beyond the largest finite value has no representation: NaN
        wide = xp.where(xp.isinf(wide), xp.full_like(wide, float("nan")), wide)
    return xp.astype(wide, xp.dtype(to))


def _to_power(xp: Namespace, x: Array, to: DType, saturate: bool, round_mode: str) -> Array:
    """float8e8m0: a power of two from 2^-127 to 2^127, without sign; `round_mode` says which.

    What lies beyond becomes the nearest of these with `saturate`, else NaN, and so does 0.
    """
    size = xp.abs(x)
    finite = xp.isfinite(x) & (size > 0)
    exponent = xp.floor(xp.log2(xp.where(finite, size, xp.ones_like(size))))
    # log2 may be off by one in its last bit: correct by comparing with the powers themselves
    base = _power(xp, exponent)
    above = _power(xp, exponent + 1.0) <= size
    exponent = xp.where(base > size, exponent - 1.0, xp.where(above, exponent + 1.0, exponent))
    base = _power(xp, exponent)
    if round_mode == "up":
        exponent = xp.where(size > base, exponent + 1.0, exponent)
    elif round_mode == "nearest":
        exponent = xp.where(size >= base * 1.5, exponent + 1.0, exponent)
    elif round_mode != "down":
        raise ValueError(f"round_mode is 'up', 'down' or 'nearest', not {round_mode!r}")
    exponent = xp.where(finite, exponent, xp.where(size > 0, xp.full_like(size, 128.0), xp.full_like(size, -128.0)))
    power = _power(xp, xp.clip(exponent, -127.0, 127.0))
    unknown = xp.isnan(x) if saturate else xp.isnan(x) | (xp.abs(exponent) > 127)
    return xp.astype(xp.where(unknown, xp.full_like(power, float("nan")), power), xp.dtype(to))


def _power(xp: Namespace, exponent: Array) -> Array:
    """2 to integer exponents, subnormal results too: in two factors, each of which is exact."""
    half = xp.floor(exponent * 0.5)
    two = xp.full_like(exponent, 2.0)
    return xp.pow(two, half) * xp.pow(two, exponent - half)


def _text(xp: Namespace, x: Array, source: DType, to: DType, saturate: bool, round_mode: str) -> Array:
    """Strings to numbers and back: text is on the host, as an object array."""
    if to.kind != "S":
        if to.kind in "fc":
            number = xp.astype(x, xp.float64 if to.kind == "f" else xp.complex128)
            return convert(xp, number, to, saturate, round_mode)
        parsed = list(map(_whole, x.reshape(-1).tolist()))
        numbers = xp.reshape(xp.asarray(parsed, dtype=xp.uint64 if to.name == "uint64" else xp.int64), x.shape)
        return convert(xp, numbers, to)
    words = xp.empty(x.shape, dtype=xp.dtype("string"))
    words.reshape(-1)[...] = _printed(xp, xp.reshape(x, (-1,)), source)
    return words


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        return int(float(word))


def _printed(xp: Namespace, x: Array, source: DType) -> list[str]:
    """Integers plainly; floats in the fewest digits that read back, exponents as in C; NaN and INF by ONNX's names."""
    if source.kind != "f":
        return list(map(str, map(int, x.tolist())))
    words = list(map(str, x if source.name == "float64" else xp.astype(x, xp.float32)))
    return words if bool(xp.all(xp.isfinite(x))) else [SPECIAL.get(word, word) for word in words]
