"""Choosing among boxes: the best first, each compared with those that were chosen before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ortlite_numpy.compiled.jit import loops, own
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np


@loops()
def choose(sides, order, most, threshold, chosen):
    """Boxes that overlap no better one by more than `threshold`, in `order`; how many there are.

    `sides` are those of all boxes: (4, boxes), first both lower ones, then both upper ones.
    """
    count = 0
    zero = sides.dtype.type(0)
    for box in order:
        if count >= most:
            break
        top, left, bottom, right = sides[0, box], sides[1, box], sides[2, box], sides[3, box]
        area = (bottom - top) * (right - left)
        kept = True
        for k in range(count):
            other = chosen[k]
            height = max(min(bottom, sides[2, other]) - max(top, sides[0, other]), zero)
            width = max(min(right, sides[3, other]) - max(left, sides[1, other]), zero)
            common = height * width
            size = (sides[2, other] - sides[0, other]) * (sides[3, other] - sides[1, other])
            union = area + size - common
            if union > 0 and common / union > threshold:
                kept = False
                break
        if kept:
            chosen[count] = box
            count += 1
    return count


def _boxes(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 2, 4), dtype), np.ones((1, 1, 2), dtype), 1, 0.5, 0.0), {}


@override("NonMaxSuppression", since=10, examples=_boxes, dtypes=FLOATS)
def non_max_suppression(
    xp: Any,
    boxes: Any,
    scores: Any,
    max_output_boxes_per_class: int = 0,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    *,
    center_point_box: int = 0,
) -> Any:
    """Sorted once, then compared one by one."""
    most = min(max_output_boxes_per_class, boxes.shape[1])
    if boxes.dtype.char not in "fd" or scores.dtype != boxes.dtype or not scores.size or most < 1:
        return NotImplemented
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all() and iou_threshold >= 0):
        return NotImplemented
    if center_point_box:
        x, y, w, h = (boxes[..., i] for i in range(4))
        corners = [y - h / 2, x - w / 2, y + h / 2, x + w / 2]
    else:
        corners = [boxes[..., i] for i in range(4)]
    pairs = [(corners[0], corners[2]), (corners[1], corners[3])]
    sides = np.stack([np.minimum(*p) for p in pairs] + [np.maximum(*p) for p in pairs], axis=1)
    threshold, chosen = float(iou_threshold), np.empty(most, np.int64)
    good = np.ones(scores.shape, bool) if score_threshold is None else scores > score_threshold
    rows = []
    for batch, label in np.argwhere(good.any(2)).tolist():
        places = np.flatnonzero(good[batch, label])
        order = own(places[np.argsort(-scores[batch, label, places], kind="stable")])
        count = choose(own(sides[batch]), order, most, threshold, chosen)
        found = np.empty((count, 3), np.int64)
        found[:, 0], found[:, 1], found[:, 2] = batch, label, chosen[:count]
        rows.append(found)
    return np.concatenate(rows) if rows else np.empty((0, 3), np.int64)
