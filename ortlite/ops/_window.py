"""Where the windows of convolutions and pools stand: pads from auto_pad, ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pads", "defaults", "window_pads"]

Pads = list[tuple[int, int]]


def defaults(given: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Strides or dilations, 1 along every axis unless given. Raises ValueError for a wrong number of them."""
    if not given:
        return (1,) * rank
    if len(given) != rank:
        raise ValueError(f"{list(given)} must have one entry for each of {rank} spatial axes")
    return tuple(given)


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
    would start there. Raises ValueError for an unknown `auto_pad` or a wrong number of pads.
    """
    rank = len(spatial)
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        result = []
        for n, k, s, d in zip(spatial, size, strides, dilations, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less, more = total // 2, total - total // 2
            result.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
        return result
    if auto_pad not in {"NOTSET", "VALID", ""}:
        raise ValueError(f"auto_pad is NOTSET, VALID, SAME_UPPER or SAME_LOWER, not {auto_pad!r}")
    given = [0] * (2 * rank) if auto_pad == "VALID" or not pads else list(pads)
    if len(given) != 2 * rank:
        raise ValueError(f"pads {given} must have two entries for each of {rank} spatial axes")
    result = list(zip(given[:rank], given[rank:], strict=True))
    if ceil_mode:
        for i, (n, k, s, d, (lo, hi)) in enumerate(zip(spatial, size, strides, dilations, result, strict=True)):
            reach = (k - 1) * d + 1
            count = -(-(n + lo + hi - reach) // s) + 1
            if (count - 1) * s >= n + lo:
                count -= 1
            result[i] = (lo, hi + max((count - 1) * s + reach - (n + lo + hi), 0))
    return result
