"""How large the numbers of a tensor can be, as far as is known without a look at them.

oneDNN bounds what it computes on the way, which saves a pass over memory, but makes numbers of NaN: its Relu 0, its
bounds one of them. So it may do that where neither NaN nor infinity can come up: what goes in is bounded, and with it
all sums of its products with the weights. From one convolution to the next the bound of one follows from that of the
other; only the first of a chain, and one whose bound has grown too far, looks at the numbers.

A bound stands with the tensor that an operator made, for the run in which it did: afterwards others may write to it.
"""

from __future__ import annotations

import threading
from math import sqrt
from typing import Any

import torch

from ortlite_torch.threads import fit

__all__ = ["MOST", "begin", "know", "known", "measured", "norm"]

MOST = 1e37  # a bound on sums; what rounding adds is less by far than the factor to infinity


class _Run(threading.local):
    """The run in this thread that began last."""

    number: object = None


_run = _Run()


def begin() -> None:
    """Forget, in this thread, what was known."""
    _run.number = object()


def know(x: Any, bound: float) -> None:
    """Note that no element of a tensor that was just made exceeds a bound in size, and none is NaN."""
    x.ortlite_reach = bound, _run.number, x._version  # noqa: SLF001


def known(x: Any) -> float | None:
    """What was noted in this run, if nobody has written to the tensor since."""
    bound, number, version = getattr(x, "ortlite_reach", (0.0, None, 0))
    return bound if number is not None and number is _run.number and version == x._version else None  # noqa: SLF001


def measured(x: Any, most: int) -> float | None:
    """What is known of images; else, if they have no more than `most` elements, their norm."""
    found = known(x)
    return norm(x) if found is None and x.numel() <= most else found


def norm(x: Any) -> float:
    """The norm of images, which no element exceeds: NaN where one is NaN, infinite from 1e19 on."""
    flat = (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).reshape(-1)
    found = sqrt(float(fit(torch.dot, 2 * flat.numel(), flat)(flat, flat)))
    know(x, found)
    return found
