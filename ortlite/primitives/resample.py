"""What each element of a resampled axis is made of: tables on the host, for they follow from shapes and attributes."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = ["Filter", "Taps", "taps"]

Table: TypeAlias = np.ndarray[Any, Any]


class Filter(NamedTuple):
    """How an axis is resampled; the fields are the attributes of Resize."""

    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


class Taps(NamedTuple):
    """What every resampled element of an axis is made of: one index and weight a tap; and whether it lies outside.

    Without weights there is one index, whose element is taken as it is.
    """

    indices: tuple[Table, ...]
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
    """The table of an axis of `n` elements resampled to `out`. Raises ValueError where there is nothing to resample."""
    if out and not n:
        raise ValueError(f"an axis without elements cannot be resampled to {out}")
    if not out:
        return Taps((np.zeros(0, np.int64),), (), None)
    origins = _origins(rule, n, out, scale, roi)
    cropped = (origins < 0) | (origins > n - 1)
    outside = cropped if rule.transform == "tf_crop_and_resize" and cropped.any() else None
    if rule.mode == "nearest":
        indices = _nearest(rule.nearest, origins, scale < 1)
        return Taps((np.clip(indices, 0, n - 1).astype(np.int64),), (), outside)
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
