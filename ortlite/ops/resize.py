"""Resampling of images along separate axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ortlite.namespace import Namespace
from ortlite.ops._broadcast import along
from ortlite.ops._choice import one_of
from ortlite.ops.annotations import Array, Float, Floats, Int, Ints, Text
from ortlite.ops.registry import op
from ortlite.ops.shape import normal_axis

Table: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """How an axis is resampled; the fields are the attributes of Resize."""

    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


class Taps(NamedTuple):
    """What every resampled element of an axis is made of: one place and weight a tap; and whether it lies outside.

    Without weights there is one place, whose element is taken as it is. The tables are NumPy arrays on the host: they
    follow from shapes and attributes alone.
    """

    places: tuple[Table, ...]
    weights: tuple[Table, ...]
    outside: Table | None


def _origins(rule: Filter, n: int, out: int, scale: float, roi: tuple[float, float]) -> Table:
    """Where in an axis of `n` elements the `out` resampled ones lie."""
    x = np.arange(out, dtype=np.float64)
    if rule.transform == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if rule.transform == "half_pixel_symmetric":
        return n / 2 * (1 - out / (scale * n)) + (x + 0.5) / scale - 0.5
    if rule.transform == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else 0 * x
    resized = scale * n  # with scales this is not quite the number of elements, and ONNX means this
    if rule.transform == "align_corners":
        return x * (n - 1) / (resized - 1) if resized > 1 else 0 * x
    if rule.transform == "asymmetric":
        return x / scale
    if rule.transform == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if rule.transform == "tf_crop_and_resize":
        start, end = roi
        if resized <= 1:
            return 0 * x + (start + end) / 2 * (n - 1)
        return start * (n - 1) + x * ((end - start) * (n - 1) / (resized - 1))
    raise ValueError(f"unknown coordinate_transformation_mode {rule.transform!r}")


def _nearest(rule: str, x: Table, shrinks: bool) -> Table:
    """The elements nearest to places. Scales are float32: a place near a half or a whole is meant to be there."""
    half = np.round(x * 2) / 2
    x = np.where(np.abs(x - half) < 1e-6 * (1 + np.abs(x)), half, x)
    if rule == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if rule == "round_prefer_ceil":
        return np.floor(x + 0.5)
    if rule == "simple":  # opsets 7 to 10
        return np.ceil(x) if shrinks else np.floor(x)
    if rule in {"floor", "ceil"}:
        return np.floor(x) if rule == "floor" else np.ceil(x)
    raise ValueError(f"unknown nearest_mode {rule!r}")


def _linear(x: Table) -> Table:
    """A triangle over -1 to 1."""
    height: Table = np.maximum(1 - np.abs(x), 0.0)
    return height


def _cubic(x: Table, a: float) -> Table:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    far = np.where(x < 2, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a, 0.0)
    return np.where(x <= 1, (a + 2) * x**3 - (a + 3) * x**2 + 1, far)


@lru_cache(maxsize=64)
def taps(rule: Filter, n: int, out: int, scale: float, roi: tuple[float, float]) -> Taps:
    """The table of an axis of `n` elements resampled to `out`."""
    origins = _origins(rule, n, out, scale, roi)
    cropped = (origins < 0) | (origins > n - 1)
    outside = cropped if rule.transform == "tf_crop_and_resize" and cropped.any() else None
    if rule.mode == "nearest":
        places = _nearest(rule.nearest, origins, scale < 1)
        return Taps((np.clip(places, 0, n - 1).astype(np.int64),), (), outside)
    stretch = min(scale, 1.0) if rule.antialias else 1.0
    reach = (1 if rule.mode == "linear" else 2) / stretch
    base = np.floor(origins)
    near = [base + step for step in range(floor(-reach) + 1, ceil(reach) + 1)]
    distances = [(place - origins) * stretch for place in near]
    weights = [_linear(d) if rule.mode == "linear" else _cubic(d, rule.cubic_a) for d in distances]
    if rule.exclude_outside:
        weights = [np.where((i >= 0) & (i < n), w, 0.0) for i, w in zip(near, weights, strict=True)]
    if rule.exclude_outside or rule.antialias:
        total = sum(weights)
        weights = [w / total for w in weights]
    kept = [i for i, w in enumerate(weights) if w.any()] or [0]
    inside = [np.clip(near[i], 0, n - 1).astype(np.int64) for i in kept]
    return Taps(tuple(inside), tuple(weights[i] for i in kept), outside)


def resample(xp: Namespace, x: Array, axis: int, table: Taps) -> Array:
    """`x` resampled along `axis` by a table of taps."""
    parts = [xp.take(x, xp.asarray(places, dtype=xp.int64), axis=axis) for places in table.places]
    if not table.weights:
        return parts[0]
    total = None
    for part, weights in zip(parts, table.weights, strict=True):
        part = part * along(xp, xp.asarray(weights, dtype=x.dtype), axis, x.ndim)
        total = part if total is None else total + part
    return total


def resize_axes(
    xp: Namespace,
    x: Array,
    sizes: dict[int, int],
    scales: dict[int, float],
    rule: Filter,
    roi: dict[int, tuple[float, float]] | None = None,
    extrapolation: float = 0.0,
) -> Array:
    """Resample the axes in `sizes`. Floats keep their dtype, other dtypes go through float32 and are truncated."""
    dtype = x.dtype
    if rule.mode != "nearest" and not xp.isdtype(dtype, "real floating"):
        x = xp.astype(x, xp.float32)
    outside = None
    for axis, out in sizes.items():
        n, scale = x.shape[axis], scales[axis]
        if out == n and scale == 1.0 and rule.transform != "tf_crop_and_resize":
            continue
        table = taps(rule, n, out, scale, (roi or {}).get(axis, (0.0, 1.0)))
        x = resample(xp, x, axis, table)
        if table.outside is not None:
            beyond = along(xp, xp.asarray(table.outside, dtype=xp.bool), axis, x.ndim)
            outside = beyond if outside is None else outside | beyond
    if outside is not None:
        x = xp.where(outside, xp.asarray(extrapolation, dtype=x.dtype), x)
    return _back(xp, x, dtype)


def _back(xp: Namespace, x: Array, dtype: object) -> Array:
    if x.dtype == dtype or xp.isdtype(dtype, "bool"):
        return xp.astype(x, dtype)
    limits = xp.iinfo(dtype)
    return xp.astype(xp.clip(x, float(limits.min), float(limits.max)), dtype)


@op("Resize", since=11)
def resize(
    xp: Namespace,
    X: Array,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: Int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: Text = "half_pixel",
    cubic_coeff_a: Float = -0.75,
    exclude_outside: Int = 0,
    extrapolation_value: Float = 0.0,
    keep_aspect_ratio_policy: Text = "stretch",
    mode: Text = "nearest",
    nearest_mode: Text = "round_prefer_floor",
) -> Array:
    """Resample `axes` (all by default) of `X` by `scales` or to `sizes`; one of the two is given and not empty.

    Raises ValueError for a mode or policy that ONNX does not have.
    """
    one_of("mode", mode, "nearest", "linear", "cubic")
    one_of("keep_aspect_ratio_policy", keep_aspect_ratio_policy, "stretch", "not_larger", "not_smaller")
    chosen = [normal_axis(a, X.ndim) for a in (range(X.ndim) if axes is None else axes)]
    if sizes:
        wanted = dict(zip(chosen, sizes, strict=True))
        factors = {a: size / X.shape[a] if X.shape[a] else 1.0 for a, size in wanted.items()}
        if keep_aspect_ratio_policy != "stretch":
            same = (min if keep_aspect_ratio_policy == "not_larger" else max)(factors.values())
            factors = dict.fromkeys(chosen, same)
            wanted = {a: floor(same * X.shape[a] + 0.5) for a in chosen}
    elif scales:
        factors = dict(zip(chosen, scales, strict=True))
        wanted = {a: floor(X.shape[a] * s) for a, s in factors.items()}
    else:
        raise ValueError("Resize needs scales or sizes")
    rule = Filter(
        mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(exclude_outside), bool(antialias)
    )
    count = len(chosen)
    regions = {a: (roi[i], roi[i + count]) for i, a in enumerate(chosen)} if roi else None
    return resize_axes(xp, X, wanted, factors, rule, regions, extrapolation_value)


@op("Resize", since=10)
def resize_10(xp: Namespace, X: Array, scales: Floats, *, mode: Text = "nearest") -> Array:
    """Resample by `scales`, coordinates divided by the scale; nearest rounds down to enlarge and up to shrink."""
    one_of("mode", mode, "nearest", "linear", "bilinear")
    wanted = {a: floor(X.shape[a] * s) for a, s in enumerate(scales)}
    rule = Filter("linear" if mode in {"linear", "bilinear"} else mode, "asymmetric", "simple")
    return resize_axes(xp, X, wanted, dict(enumerate(scales)), rule)


@op("Upsample", since=7)
def upsample(xp: Namespace, X: Array, scales: Floats, *, mode: Text = "nearest") -> Array:
    """Enlarge by `scales`: the name of Resize below opset 10."""
    return resize_10(xp, X, scales, mode=mode)


@op("Upsample")
def upsample_1(xp: Namespace, X: Array, *, height_scale: Float, width_scale: Float, mode: Text = "nearest") -> Array:
    """Enlarge the last two axes."""
    return resize_10(xp, X, (1.0,) * (X.ndim - 2) + (height_scale, width_scale), mode=mode)
