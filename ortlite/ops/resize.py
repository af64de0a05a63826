"""Resampling of images along separate axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Floats, Int, Ints, Text
from ortlite.ops.registry import op
from ortlite.ops.shape import normal_axis


@dataclass(frozen=True, slots=True)
class Filter:
    """How an axis is resampled; the fields are the attributes of Resize."""

    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


Taps = tuple[tuple[tuple[int, ...], ...], tuple[tuple[float, ...], ...], tuple[bool, ...]]


def _origin(rule: Filter, x: int, scale: float, n: int, out: int, roi: tuple[float, float]) -> float:
    """Where in an axis of `n` elements the element `x` of the `out` resampled ones lies."""
    if rule.transform == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if rule.transform == "half_pixel_symmetric":
        return n / 2 * (1 - out / (scale * n)) + (x + 0.5) / scale - 0.5
    if rule.transform == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else 0.0
    resized = scale * n  # with scales this is not quite the number of elements, and ONNX means this
    if rule.transform == "align_corners":
        return x * (n - 1) / (resized - 1) if resized > 1 else 0.0
    if rule.transform == "asymmetric":
        return x / scale
    if rule.transform == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if rule.transform == "tf_crop_and_resize":
        start, end = roi
        step = (end - start) * (n - 1) / (resized - 1) if resized > 1 else 0.0
        return start * (n - 1) + x * step if resized > 1 else (start + end) / 2 * (n - 1)
    raise ValueError(f"unknown coordinate_transformation_mode {rule.transform!r}")


def _nearest(rule: str, x: float, shrinks: bool) -> int:
    """The element nearest to a place. Scales are float32: a place near a half or a whole is meant to be there."""
    half = round(x * 2) / 2
    x = half if abs(x - half) < 1e-6 * (1 + abs(x)) else x
    if rule == "round_prefer_floor":
        return ceil(x - 0.5)
    if rule == "round_prefer_ceil":
        return floor(x + 0.5)
    if rule == "simple":  # opsets 7 to 10
        return ceil(x) if shrinks else floor(x)
    if rule in {"floor", "ceil"}:
        return floor(x) if rule == "floor" else ceil(x)
    raise ValueError(f"unknown nearest_mode {rule!r}")


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@lru_cache(maxsize=256)
def taps(rule: Filter, n: int, out: int, scale: float, roi: tuple[float, float]) -> Taps:
    """For every resampled element: the elements it is made of, their weights, and whether it lies outside."""
    places: list[tuple[int, ...]] = []
    weights: list[tuple[float, ...]] = []
    outside: list[bool] = []
    for x in range(out):
        origin = _origin(rule, x, scale, n, out, roi)
        outside.append(rule.transform == "tf_crop_and_resize" and not 0 <= origin <= n - 1)
        if rule.mode == "nearest":
            index = _nearest(rule.nearest, origin, scale < 1)
            places.append((min(max(index, 0), n - 1),))
            weights.append((1.0,))
            continue
        stretch = min(scale, 1.0) if rule.antialias else 1.0
        reach = (1 if rule.mode == "linear" else 2) / stretch
        base = floor(origin)
        near = range(base + floor(-reach) + 1, base + ceil(reach) + 1)
        distance = [(i - origin) * stretch for i in near]
        w = [max(1 - abs(d), 0.0) if rule.mode == "linear" else _cubic(d, rule.cubic_a) for d in distance]
        if rule.exclude_outside:
            w = [v if 0 <= i < n else 0.0 for i, v in zip(near, w, strict=True)]
        total = sum(w) if rule.exclude_outside or rule.antialias else 1.0
        places.append(tuple(min(max(i, 0), n - 1) for i in near))
        weights.append(tuple(v / total for v in w))
    return tuple(places), tuple(weights), tuple(outside)


def resample(xp: Namespace, x: Array, axis: int, table: Taps) -> Array:
    """`x` resampled along `axis` by a table of taps."""
    places, weights, _ = table
    width = max(map(len, places), default=1)
    if width == 1:
        return xp.take(x, xp.asarray([p[0] for p in places], dtype=xp.int64), axis=axis)
    total = None
    shape = tuple(-1 if i == axis else 1 for i in range(x.ndim))
    for tap in range(width):
        w = [row[tap] if tap < len(row) else 0.0 for row in weights]
        if not any(w):
            continue
        index = [row[tap] if tap < len(row) else 0 for row in places]
        part = xp.take(x, xp.asarray(index, dtype=xp.int64), axis=axis)
        part = part * xp.reshape(xp.asarray(w, dtype=x.dtype), shape)
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
        if any(table[2]):
            shape = tuple(-1 if i == axis else 1 for i in range(x.ndim))
            beyond = xp.reshape(xp.asarray(table[2], dtype=xp.bool), shape)
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
    """Resample `axes` (all by default) of `X` by `scales` or to `sizes`; one of the two is given and not empty."""
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
