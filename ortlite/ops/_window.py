"""Where the windows of convolutions and pools stand: pads from auto_pad, ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence

from ortlite.ops.helpers import one_of
from ortlite.primitives.window import output_shape

__all__ = ["Pads", "clipped", "defaults", "fixed_pads", "kernel_size", "window_pads"]

Pads = list[tuple[int, int]]


def defaults(name: str, given: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The attribute `name`, strides or dilations: 1 along every axis unless given.

    Raises ValueError for a wrong number of them, and where one is below 1.
    """
    if not given:
        return (1,) * rank
    return _positive(name, given, rank)


def kernel_size(given: Sequence[int], rank: int) -> tuple[int, ...]:
    """The lengths of a kernel. Raises ValueError for a wrong number of them, and where one is below 1."""
    return _positive("kernel_shape", given, rank)


def _positive(name: str, given: Sequence[int], rank: int) -> tuple[int, ...]:
    if len(given) != rank:
        raise ValueError(f"{name} {list(given)} must have one entry for each of {rank} spatial axes")
    if min(given, default=1) < 1:
        raise ValueError(f"{name} {list(given)} must all be 1 or more")
    return tuple(given)


def fixed_pads(rank: int, pads: Sequence[int] | None, auto_pad: str = "NOTSET") -> Pads:
    """Padding (before, after) of each spatial axis as the node gives it; none when it is VALID.

    Raises ValueError for an unknown `auto_pad` or a wrong number of pads.
    """
    one_of("auto_pad", auto_pad, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
    given = [0] * (2 * rank) if auto_pad == "VALID" or not pads else list(pads)
    if len(given) != 2 * rank:
        raise ValueError(f"pads {given} must have two entries for each of {rank} spatial axes")
    return list(zip(given[:rank], given[rank:], strict=True))


def window_pads(
    spatial: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: int = 0,
) -> Pads:
    """Padding (before, after) of each spatial axis.

    With `ceil_mode` the last window may reach beyond the end, which then is padded further, unless it
    would start there. A kernel that is larger than the padded axis, by less than a stride, has one window all the same:
    ONNX's shape inference divides towards zero. Raises ValueError for an unknown `auto_pad` or a wrong number of pads.
    """
    rank = len(spatial)
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        result = []
        for n, k, s, d in zip(spatial, size, strides, dilations, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less, more = total // 2, total - total // 2
            result.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
        return result
    result = fixed_pads(rank, pads, auto_pad)
    for i, (n, k, s, d, (lo, hi)) in enumerate(zip(spatial, size, strides, dilations, result, strict=True)):
        spare = n + lo + hi - ((k - 1) * d + 1)
        if ceil_mode:
            count = -(-spare // s) + 1
            if (count - 1) * s >= n + lo:
                count -= 1
        elif -s < spare < 0 and n:
            count = 1
        else:
            continue
        result[i] = (lo, hi + max((count - 1) * s - spare, 0))
    return result


def clipped(
    spatial: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads
) -> tuple[tuple[int, ...], Pads]:
    """The size and pads of windows without the places at which no window ever shows an element of the image.

    There are as many windows, which show the same elements: a pool's cost depends on the image, not on its window.
    """
    out = output_shape(spatial, size, strides, dilations, pads)
    sizes, padding = [], []
    for n, k, s, d, (lo, hi), count in zip(spatial, size, strides, dilations, pads, out, strict=True):
        first = min(max(lo - (count - 1) * s, 0) // d, k - 1) if lo > 0 else 0
        last = max((n - 1 + lo) // d, first)
        beyond = min(max(k - 1 - last, 0), max(hi, 0) // d)  # a pad never becomes negative
        sizes.append(k - first - beyond)
        padding.append((lo - first * d, hi - beyond * d))
    return tuple(sizes), padding
