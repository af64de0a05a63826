"""How far two values are apart: absolutely, relatively, and in units in the last place (ULP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, nan
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.dtypes import DType

__all__ = ["DEFAULTS", "Difference", "Tolerance", "difference", "furthest", "ulps"]

BLOCK = 1 << 15  # elements that are compared at once: what they need on the way stays in the cache

# dtype -> (rtol, atol): more than another order of summation costs in a deep model, less than a wrong formula: a
# thousand roundings of float32, ten of the halves, two of the narrower floats. Whatever is not floating must be equal.
DEFAULTS: dict[str, tuple[float, float]] = {
    "float64": (1e-10, 1e-12),
    "float32": (1e-4, 1e-5),
    "float16": (1e-2, 1e-3),
    "bfloat16": (8e-2, 1e-2),
    "float8_e4m3fn": (0.25, 0.01),
    "float8_e4m3fnuz": (0.25, 0.01),
    "float8_e5m2": (0.5, 0.01),
    "float8_e5m2fnuz": (0.5, 0.01),
    "float8_e8m0fnu": (0.5, 0.0),
    "float6_e2m3fn": (0.25, 0.125),
    "float6_e3m2fn": (0.5, 0.125),
    "float4_e2m1fn": (0.5, 0.5),
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`a` and `b` agree where `|a - b| <= atol + rtol · max(|a|, |b|)`; None takes the default of the dtype.

    To integers and booleans only a given `atol` applies; without, they must be equal.
    """

    rtol: float | None = None
    atol: float | None = None

    def of(self, dtype: DType) -> tuple[float, float]:
        """(rtol, atol) for values of `dtype`."""
        if dtype.kind not in "fc":
            return 0.0, self.atol or 0.0
        part = {"complex64": "float32", "complex128": "float64"}.get(dtype.name, dtype.name)
        rtol, atol = DEFAULTS[part]
        return (rtol if self.rtol is None else self.rtol), (atol if self.atol is None else self.atol)


@dataclass(frozen=True, slots=True)
class Difference:
    """How two values differ; each figure is the largest over the elements, on its own.

    `absolute` is `|a - b|` and `relative` that over `max(|a|, |b|)`; both and `ulps` leave out elements that are NaN on
    a side. `ulps` counts the representable numbers between (None for what is not floating). `unequal` and `beyond`
    count elements that differ and those beyond tolerance, `odd` those that are NaN, or infinite, on one side only.
    `excess` is the largest `|a - b|` over what the tolerance allows: more than 1 is beyond it. `worst` is where,
    `problem` says why the two cannot be compared element by element.
    """

    dtype: str
    shape: str
    absolute: float = 0.0
    relative: float = 0.0
    ulps: int | None = None
    size: int = 0
    unequal: int = 0
    beyond: int = 0
    odd: int = 0
    excess: float = 0.0
    worst: str = ""
    problem: str = ""

    @property
    def type(self) -> str:
        """Dtype and shape of the value on the first side."""
        return self.dtype + (self.shape if self.shape.startswith("[") else f", {self.shape}" if self.shape else "")

    @property
    def exceeds(self) -> bool:
        """Whether the two are further apart than the tolerance allows."""
        return bool(self.problem) or self.beyond > 0


def difference(a: Any, b: Any, tolerance: Tolerance | None = None) -> Difference:
    """Compare two values as `session.run` gives them: arrays, lists of values, dicts, None.

    Values of other kinds, dtypes or shapes differ, and the result's `problem` says how; nothing is raised for them.

    Example:
        >>> found = difference(np.float32([1, 2]), np.float32([1, 2.001]))
        >>> found.exceeds, found.beyond, found.size, round(found.absolute, 4)
        (True, 1, 2, 0.001)

    """
    tolerance = tolerance or Tolerance()
    if a is None or b is None:
        return Difference("none", "", problem="" if a is b else "absent on one side")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return Difference("map", str(len(a)), problem=f"other keys: {sorted(map(str, a.keys() ^ b.keys()))[:3]}")
        return _all_of("map", [(str(k), difference(_item(a[k]), _item(b[k]), tolerance)) for k in a])
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        if len(a) != len(b):
            return Difference("seq", str(len(a)), problem=f"{len(a)} and {len(b)} elements")
        return _all_of(
            "seq", [(str(i), difference(x, y, tolerance)) for i, (x, y) in enumerate(zip(a, b, strict=True))]
        )
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return Difference(type(a).__name__, "", problem=f"{type(a).__name__} and {type(b).__name__}")
    dtype, other = dtypes.of_numpy(a.dtype), dtypes.of_numpy(b.dtype)
    shape = str(list(a.shape))
    if dtype is not other:
        return Difference(dtype.name, shape, problem=f"{dtype} and {other}")
    if a.shape != b.shape:
        return Difference(dtype.name, shape, problem=f"shapes {list(a.shape)} and {list(b.shape)}")
    return _tensors(a, b, dtype, tolerance)


def _item(value: Any) -> np.ndarray:
    """A value of a map as an array: maps hold float32, int64 or text."""
    return np.asarray(value, object if isinstance(value, str) else np.float32 if isinstance(value, float) else np.int64)


def _all_of(kind: str, parts: Sequence[tuple[str, Difference]]) -> Difference:
    """The difference of a container: the largest of its elements' differences."""
    found = [part for _, part in parts]
    key, worst = max(parts, key=lambda p: (bool(p[1].problem), p[1].excess), default=("", Difference("", "")))
    steps = [part.ulps for part in found if part.ulps is not None]
    return Difference(
        f"{kind}({found[0].dtype})" if found else kind,
        str(len(parts)),
        max((part.absolute for part in found), default=0.0),
        max((part.relative for part in found), default=0.0),
        max(steps) if steps else None,
        sum(part.size for part in found),
        sum(part.unequal for part in found),
        sum(part.beyond for part in found),
        sum(part.odd for part in found),
        worst.excess,
        f"[{key}]{worst.worst}" if worst.worst else "",
        f"[{key}]: {worst.problem}" if worst.problem else "",
    )


def _tensors(a: np.ndarray, b: np.ndarray, dtype: DType, tolerance: Tolerance) -> Difference:
    shape, parts = str(list(a.shape)), a.shape
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if dtype.kind == "c":  # a complex number is two floats
        half = np.dtype(f"float{dtype.bits // 2}")
        a, b = (x.view(half) for x in (a, b))
        parts = (*(parts or (1,)), 2)
    a, b = a.reshape(-1), b.reshape(-1)
    limits = tolerance.of(dtype)
    with np.errstate(all="ignore"):
        blocks = [
            _block(a[start : start + BLOCK], b[start : start + BLOCK], start, dtype, limits)
            for start in range(0, a.size, BLOCK)
        ]
    worst = max(blocks, key=lambda block: block.worst, default=_Block())
    text = dtype.kind == "S"
    return Difference(
        dtype.name,
        shape,
        nan if text else max((block.absolute for block in blocks), default=0.0),
        nan if text else max((block.relative for block in blocks), default=0.0),
        max((block.ulps for block in blocks), default=0) if dtype.kind in "fc" else None,
        a.size if dtype.kind != "c" else a.size // 2,
        sum(block.unequal for block in blocks),
        sum(block.beyond for block in blocks),
        sum(block.odd for block in blocks),
        worst.worst[0],
        "" if not worst.unequal else _place(worst.place, parts, dtype),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """What Difference says, of some neighbouring elements; `worst` is (excess, distance) at `place`."""

    absolute: float = 0.0
    relative: float = 0.0
    ulps: int = 0
    unequal: int = 0
    beyond: int = 0
    odd: int = 0
    worst: tuple[float, float] = (0.0, 0.0)
    place: int = 0


def _block(a: np.ndarray, b: np.ndarray, start: int, dtype: DType, limits: tuple[float, float]) -> _Block:
    differ = np.flatnonzero(a != b)
    if dtype.kind in "fc":  # NaN differs from itself
        differ = differ[~(np.isnan(a[differ]) & np.isnan(b[differ]))]
    if not differ.size:
        return _Block()
    a, b = a[differ], b[differ]
    (rtol, atol), steps, odd = limits, 0, 0
    if dtype.kind == "S":
        distance, size, atol = np.ones(a.shape), np.ones(a.shape), 0.0
    elif dtype.kind in "fc":
        distance, size, odd = _floats(a, b)
        steps = int(ulps(a, b).max())
    else:
        distance, size = _integers(a, b)
    missing = np.isnan(distance)
    excess = np.where(np.isinf(distance) | missing, inf, distance / (atol + rtol * size))
    relative = np.where(np.isinf(distance), inf, distance / size)
    # among equally large excesses (all infinite when the tolerance is 0), the largest distance
    worst = int(np.where(excess == excess.max(), np.where(missing, inf, distance), -1.0).argmax())
    return _Block(
        float(distance[~missing].max(initial=0.0)),
        float(relative[~missing].max(initial=0.0)),
        steps,
        differ.size,
        int((excess > 1).sum()),
        odd,
        (float(excess[worst]), inf if missing[worst] else float(distance[worst])),
        start + int(differ[worst]),
    )


def _place(index: int, shape: tuple[int, ...], dtype: DType) -> str:
    place = [int(i) for i in np.unravel_index(index, shape)]
    return str(place[:-1] if dtype.kind == "c" else place)


def furthest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest |a - b| of two arrays of floats of one shape; infinite where one side only is NaN or infinite."""
    a, b = a.reshape(-1), b.reshape(-1)
    most = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, a.size, BLOCK):
            x, y = (part[start : start + BLOCK].astype(np.float64) for part in (a, b))
            distance = np.abs(x - y)
            distance[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
            most = max(most, np.nan_to_num(distance, copy=False, nan=inf, posinf=inf).max())
    return float(most)


def _floats(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """|a - b| (NaN where one side is NaN) and max(|a|, |b|) of numbers that differ; how many are no distance apart."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = np.abs(x - y)
    return distance, np.maximum(np.abs(x), np.abs(y)), int((~np.isfinite(x) | ~np.isfinite(y)).sum())


def _integers(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|a - b| and max(|a|, |b|), as floats; exact up to 2**53."""
    wide = np.uint64 if a.dtype == np.uint64 else np.int64
    x, y = a.astype(wide), b.astype(wide)
    return _apart(x, y).astype(np.float64), np.maximum(np.abs(x.astype(np.float64)), np.abs(y.astype(np.float64)))


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y| of 64-bit integers as uint64: what overflows wraps to the right value."""
    distance: np.ndarray = np.where(x >= y, x - y, y - x).view(np.uint64)
    return distance


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many steps from one representable number to the next lead from `a` to `b`: uint64, 0 where one is NaN.

    Both are one-dimensional and of one floating dtype. -0 and 0 are the same number, infinity is the step after the
    largest finite one.
    """
    dtype = dtypes.of_numpy(a.dtype)
    distance = _apart(_rank(a, dtype), _rank(b, dtype))
    missing = np.isnan(a.astype(np.float64)) | np.isnan(b.astype(np.float64))
    return np.where(missing, np.uint64(0), distance)


def _rank(x: np.ndarray, dtype: DType) -> np.ndarray:
    """int64 that count up with the numbers they stand for."""
    if dtype.bits < 16:
        return np.searchsorted(_numbers(dtype), x.astype(np.float32)).astype(np.int64)
    bits = x.view(f"int{dtype.bits}").astype(np.int64)
    rank: np.ndarray = np.where(bits < 0, -(bits & np.int64(2 ** (dtype.bits - 1) - 1)), bits)
    return rank


@cache
def _numbers(dtype: DType) -> np.ndarray:
    """Every number that a float of up to 8 bits can be, in order."""
    numbers = np.arange(2**dtype.bits, dtype=np.uint8).view(dtypes.to_numpy(dtype)).astype(np.float32)
    found: np.ndarray = np.unique(numbers[~np.isnan(numbers)])
    return found
