"""Resampling of images along separate axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Floats, Ints, Text
from ortlite.ops.helpers import along, clamped, distinct_axes, one_of
from ortlite.ops.registry import op
from ortlite.primitives.resample import Filter, Taps, taps


def tables(
    shape: Sequence[int],
    sizes: dict[int, int],
    scales: dict[int, float],
    rule: Filter,
    roi: dict[int, tuple[float, float]] | None,
) -> dict[int, Taps]:
    """Of what the elements of each axis are made that does not stay as it is."""
    return {
        axis: taps(rule, shape[axis], out, scales[axis], (roi or {}).get(axis, (0.0, 1.0)))
        for axis, out in sizes.items()
        if (out, scales[axis]) != (shape[axis], 1.0) or rule.transform == "tf_crop_and_resize"
    }


def resize_axes(
    xp: Namespace,
    x: Array,
    sizes: dict[int, int],
    scales: dict[int, float],
    rule: Filter,
    roi: dict[int, tuple[float, float]] | None = None,
    extrapolation: float = 0.0,
) -> Array:
    """Resample the axes in `sizes`. Floats keep their dtype, integers go through float32 and are truncated.

    Raises ValueError for strings between which something is to be found.
    """
    dtype = x.dtype
    if rule.mode != "nearest" and xp.isdtype(dtype, "complex floating"):
        real = resize_axes(xp, xp.real(x), sizes, scales, rule, roi, extrapolation)
        return real + 1j * resize_axes(xp, xp.imag(x), sizes, scales, rule, roi)
    if rule.mode != "nearest" and xp.dtype_name(dtype) == "string":
        raise ValueError(f"there is nothing between two strings: the mode must be nearest, not {rule.mode!r}")
    if rule.mode != "nearest" and not xp.isdtype(dtype, "real floating"):
        x = xp.astype(x, xp.float32)
    outside = None
    for axis, table in tables(x.shape, sizes, scales, rule, roi).items():
        x = xp.resample(x, axis, table.indices, table.weights)
        if table.outside is not None:
            beyond = along(xp, xp.asarray(table.outside, dtype=xp.bool), axis, x.ndim)
            outside = beyond if outside is None else outside | beyond
    if outside is not None:
        x = xp.where(outside, _filling(xp, extrapolation, x.dtype), x)
    return clamped(xp, x, dtype)


def _filling(xp: Namespace, value: float, dtype: object) -> Array:
    """`value` as `dtype`: truncated and clamped for integers, nothing for strings."""
    if xp.dtype_name(dtype) == "string":
        return xp.asarray("", dtype=dtype)
    if xp.isdtype(dtype, "integral"):
        limits = xp.iinfo(dtype)
        return xp.asarray(min(max(int(value), limits.min), limits.max), dtype=dtype)
    return xp.asarray(value, dtype=dtype)


def _require_factors(given: Sequence[float], axes: Sequence[int]) -> None:
    """Raises ValueError unless there is one size or scale for each axis, none of them negative."""
    if given and (len(given) != len(axes) or min(given) < 0):
        raise ValueError(f"sizes or scales {list(given)} must not be negative, one for each of the axes {list(axes)}")


def asked(
    shape: Sequence[int],
    roi: Floats | None,
    scales: Floats | None,
    sizes: Ints | None,
    axes: Ints | None,
    policy: Text,
) -> tuple[dict[int, int], dict[int, float], dict[int, tuple[float, float]] | None]:
    """The new size of each axis, by what it is scaled, and the region of interest, of an array of that shape.

    Raises ValueError where not one of scales and sizes is given for each axis, or for a policy that ONNX does not have.
    """
    one_of("keep_aspect_ratio_policy", policy, "stretch", "not_larger", "not_smaller")
    chosen = distinct_axes(range(len(shape)) if axes is None else axes, len(shape))
    _require_factors(sizes or scales or (), chosen)
    if sizes:
        wanted = dict(zip(chosen, sizes, strict=True))
        factors = {a: size / shape[a] if shape[a] else 1.0 for a, size in wanted.items()}
        if policy != "stretch":
            same = (min if policy == "not_larger" else max)(factors.values())
            factors = dict.fromkeys(chosen, same)
            wanted = {a: floor(same * shape[a] + 0.5) for a in chosen}
    elif scales:
        factors = dict(zip(chosen, scales, strict=True))
        wanted = {a: floor(shape[a] * s) for a, s in factors.items()}
    else:
        raise ValueError("neither scales nor sizes are given")
    count = len(chosen)
    return wanted, factors, {a: (roi[i], roi[i + count]) for i, a in enumerate(chosen)} if roi else None


def rule_of(
    mode: Text, transform: Text, nearest_mode: Text, cubic_coeff_a: Float, exclude_outside: Flag, antialias: Flag
) -> Filter:
    """The rule that Resize's attributes ask for. Raises ValueError for a mode that ONNX does not have."""
    one_of("mode", mode, "nearest", "linear", "cubic")
    return Filter(mode, transform, nearest_mode, cubic_coeff_a, bool(exclude_outside), bool(antialias))


def rule_10_of(mode: Text) -> Filter:
    """That of opset 10, and of Upsample. Raises ValueError for a mode that ONNX does not have."""
    one_of("mode", mode, "nearest", "linear", "bilinear")
    return Filter("nearest" if mode == "nearest" else "linear", "asymmetric", "simple")


@op("Resize", since=11, views=True)
def resize(
    xp: Namespace,
    X: Array,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: Flag = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: Text = "half_pixel",
    cubic_coeff_a: Float = -0.75,
    exclude_outside: Flag = 0,
    extrapolation_value: Float = 0.0,
    keep_aspect_ratio_policy: Text = "stretch",
    mode: Text = "nearest",
    nearest_mode: Text = "round_prefer_floor",
) -> Array:
    """Resample `axes` (all by default) of `X` by `scales` or to `sizes`; one of the two is given and not empty.

    Raises ValueError for a mode or policy that ONNX does not have.
    """
    rule = rule_of(mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, exclude_outside, antialias)
    wanted, factors, regions = asked(X.shape, roi, scales, sizes, axes, keep_aspect_ratio_policy)
    return resize_axes(xp, X, wanted, factors, rule, regions, extrapolation_value)


@op("Resize", since=10, views=True)
def resize_10(xp: Namespace, X: Array, scales: Floats, *, mode: Text = "nearest") -> Array:
    """Resample by `scales`, coordinates divided by the scale; nearest rounds down to enlarge and up to shrink."""
    rule = rule_10_of(mode)
    wanted, factors, _ = asked(X.shape, None, scales, None, None, "stretch")
    return resize_axes(xp, X, wanted, factors, rule)


@op("Upsample", since=7, views=True)
def upsample(xp: Namespace, X: Array, scales: Floats, *, mode: Text = "nearest") -> Array:
    """Enlarge by `scales`: the name of Resize below opset 10."""
    return resize_10(xp, X, scales, mode=mode)


@op("Upsample", views=True)
def upsample_1(xp: Namespace, X: Array, *, height_scale: Float, width_scale: Float, mode: Text = "nearest") -> Array:
    """Enlarge the last two axes."""
    return resize_10(xp, X, (1.0,) * (X.ndim - 2) + (height_scale, width_scale), mode=mode)
