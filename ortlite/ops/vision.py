"""Sampling at computed places, regions of interest, and choosing boxes."""

from __future__ import annotations

from math import prod

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Bool, Flag, Float, Int, Ints, Text
from ortlite.ops.conv import interpolate
from ortlite.ops.helpers import along, clamped, one_of, require_shape
from ortlite.ops.registry import op


@op("AffineGrid", since=20)
def affine_grid(xp: Namespace, theta: Array, size: Ints, *, align_corners: Flag = 0) -> Array:
    """Sampling places of an affine map: `theta` (N, d, d + 1) over an image of `size` (N, C, *spatial), in -1 to 1."""
    spatial = size[2:]
    steps = []
    for axis, n in enumerate(spatial):
        index = xp.arange(n, dtype=theta.dtype)
        if align_corners:
            line = index * (2.0 / max(n - 1, 1)) - 1.0 if n > 1 else xp.zeros_like(index)
        else:
            line = (index * 2.0 + 1.0) / n - 1.0
        steps.append(xp.broadcast_to(along(xp, line, axis, len(spatial)), spatial))
    points = xp.stack([*reversed(steps), xp.ones(spatial, dtype=theta.dtype)], axis=-1)  # x before y before z
    flat = xp.reshape(points, (1, prod(spatial), len(spatial) + 1))
    grid = xp.matmul(xp.broadcast_to(flat, (theta.shape[0], *flat.shape[1:])), xp.matrix_transpose(theta))
    return xp.reshape(grid, (theta.shape[0], *spatial, len(spatial)))


def _unfold(xp: Namespace, x: Array, n: int, padding: str, align: int) -> Array:
    """Coordinates in -1 to 1 as positions along an axis of `n` elements, mirrored or held inside on request."""
    x = (x + 1.0) * ((n - 1) / 2) if align else ((x + 1.0) * n - 1.0) / 2
    return _inside(xp, x, n, padding, align)


def _inside(xp: Namespace, x: Array, n: int, padding: str, align: int) -> Array:
    if padding == "border":
        return xp.hardtanh(x, 0.0, float(n - 1))
    if padding == "reflection":
        low, high = (0.0, n - 1.0) if align else (-0.5, n - 0.5)
        span = high - low
        if span <= 0:
            return xp.zeros_like(x)
        folded = xp.abs(x - low)
        turns = xp.floor(folded / span)
        rest = folded - turns * span
        odd = xp.remainder(turns, xp.full_like(turns, 2.0)) != 0
        return xp.hardtanh(xp.where(odd, span - rest, rest) + low, 0.0, n - 1.0)
    return x


@op("GridSample", since=20)
def grid_sample(
    xp: Namespace,
    X: Array,
    grid: Array,
    *,
    align_corners: Flag = 0,
    mode: Text = "linear",
    padding_mode: Text = "zeros",
) -> Array:
    """`X` (N, C, *spatial) at the places `grid` (N, *out, d), whose last axis runs x, y, z in -1 to 1.

    `mode` nearest, linear or cubic; `padding_mode` zeros, border or reflection says what lies outside.
    Raises ValueError for another.
    """
    one_of("mode", mode, "nearest", "linear", "cubic", "bilinear", "bicubic")
    one_of("padding_mode", padding_mode, "zeros", "border", "reflection")
    spatial = X.shape[2:]
    n, rank = X.shape[0], len(spatial)
    out = grid.shape[1:-1]
    raw = [grid[..., rank - 1 - axis] for axis in range(rank)]
    kind = mode.removeprefix("bi")
    image = X if xp.isdtype(X.dtype, ("real floating", "complex floating")) else xp.astype(X, grid.dtype)
    image = xp.expand_dims(image, axis=1)
    if kind == "cubic":
        coordinates = [_unfold(xp, g, size, "zeros", align_corners) for g, size in zip(raw, spatial, strict=True)]
        y = _cubic_sample(xp, image, coordinates, padding_mode, align_corners)
    else:
        padding = "zeros" if kind == "nearest" else padding_mode
        coordinates = [_unfold(xp, g, size, padding, align_corners) for g, size in zip(raw, spatial, strict=True)]
        if kind == "nearest":  # rounded before it is mirrored: at halves the other order finds the other neighbour
            coordinates = [
                _inside(xp, xp.round(c), size, padding_mode, align_corners)
                for c, size in zip(coordinates, spatial, strict=True)
            ]
        coordinates = [xp.astype(xp.expand_dims(c, axis=1), _real(xp, image)) for c in coordinates]
        y = interpolate(xp, image, coordinates)
    return clamped(xp, xp.reshape(y, (n, X.shape[1], *out)), X.dtype)


@op("GridSample", since=16)
def grid_sample_16(
    xp: Namespace,
    X: Array,
    grid: Array,
    *,
    align_corners: Flag = 0,
    mode: Text = "bilinear",
    padding_mode: Text = "zeros",
) -> Array:
    """GridSample of images, whose modes are called nearest, bilinear and bicubic (opsets 16 to 19)."""
    return grid_sample(xp, X, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


def _real(xp: Namespace, image: Array) -> object:
    if xp.isdtype(image.dtype, "real floating"):
        return image.dtype
    return xp.float64 if xp.dtype_name(image.dtype) == "complex128" else xp.float32


def _cubic_weights(xp: Namespace, t: Array, a: float = -0.75) -> list[Array]:
    """Keys' weights of the four neighbours of a point `t` past the second."""

    def near(x: Array) -> Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1.0

    def far(x: Array) -> Array:
        return ((x - 5.0) * x + 8.0) * x * a - 4.0 * a

    return [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]


def _cubic_sample(xp: Namespace, image: Array, coordinates: list[Array], padding: str, align: int) -> Array:
    """Cubic interpolation over the 4^d neighbours of every place."""
    spatial = image.shape[3:]
    bases = [xp.floor(c) for c in coordinates]
    weights = [_cubic_weights(xp, c - b) for c, b in zip(coordinates, bases, strict=True)]
    total = None
    for number in range(4 ** len(spatial)):
        weight, places = None, []
        for axis, n in enumerate(spatial):
            step = number // 4**axis % 4
            w = weights[axis][step]
            weight = w if weight is None else weight * w
            place = bases[axis] + float(step - 1)
            places.append(xp.expand_dims(_inside(xp, place, n, padding, align), axis=1))
        part = interpolate(xp, image, [xp.astype(p, _real(xp, image)) for p in places])
        part = part * xp.astype(xp.expand_dims(xp.expand_dims(weight, axis=1), axis=1), image.dtype)
        total = part if total is None else total + part
    return total


@op("RoiAlign", since=16)
def roi_align(
    xp: Namespace,
    X: Array,
    rois: Array,
    batch_indices: Array,
    *,
    coordinate_transformation_mode: Text = "half_pixel",
    mode: Text = "avg",
    output_height: Int = 1,
    output_width: Int = 1,
    sampling_ratio: Int = 0,
    spatial_scale: Float = 1.0,
) -> Array:
    """Pool `output_height` × `output_width` bins of every region (x1, y1, x2, y2), sampled linearly, by "avg" or "max".

    Without `sampling_ratio` the number of samples in a bin follows from the region's size, so it depends on values; a
    region without area gives 0. Raises ValueError for another mode or coordinate transformation.
    """
    one_of("mode", mode, "avg", "max")
    one_of("coordinate_transformation_mode", coordinate_transformation_mode, "half_pixel", "output_half_pixel")
    require_shape("rois", rois, *batch_indices.shape, 4)
    xp.require_range("batch_indices", batch_indices, 0, X.shape[0] - 1)
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    boxes = xp.astype(rois, X.dtype) * spatial_scale - shift
    x1, y1, x2, y2 = (boxes[:, i] for i in range(4))
    width, height = x2 - x1, y2 - y1
    if not shift:  # a region of less than a pixel counts as one
        width, height = (xp.maximum(v, xp.ones_like(v)) for v in (width, height))
    bins = (output_height, output_width)
    grids = []
    for span, n in zip((height, width), bins, strict=True):
        if sampling_ratio > 0:
            grids.append(xp.full(span.shape, float(sampling_ratio), dtype=X.dtype))
        else:
            grids.append(xp.maximum(xp.ceil(span / n), xp.zeros_like(span)))
    regions = list(zip((y1, x1), (height, width), bins, grids, strict=True))
    if not rois.shape[0]:
        return xp.zeros((0, X.shape[1], *bins), dtype=X.dtype)
    most = [sampling_ratio if sampling_ratio > 0 else xp.astype(xp.clip(xp.max(g), 1.0), xp.int64) for g in grids]
    samples = [xp.concrete_value(n) for n in most]
    if None not in samples:  # all samples of a bin at once
        axes = [_line(xp, *region, xp.arange(n, dtype=X.dtype)) for region, n in zip(regions, samples, strict=True)]
        pooled = _bins(xp, X, batch_indices, axes, samples, bins, mode)
    else:
        pooled = _bins_one_by_one(xp, X, batch_indices, regions, most, bins, mode)
    counts = xp.reshape(grids[0] * grids[1], (-1, 1, 1, 1))
    pooled = pooled if mode == "max" else pooled / xp.maximum(counts, xp.ones_like(counts))
    return xp.where(counts > 0, pooled, xp.zeros_like(pooled))


def _line(xp: Namespace, start: Array, span: Array, bins: int, grid: Array, step: Array) -> tuple[Array, Array]:
    """Where the samples `step` of every bin lie along one axis, and whether a region has so many: (count, places)."""
    step = xp.reshape(step, (1, 1, -1))
    steps = xp.reshape(xp.maximum(grid, xp.ones_like(grid)), (-1, 1, 1))
    place = xp.reshape(xp.arange(bins, dtype=start.dtype), (1, -1, 1)) + (step + 0.5) / steps
    place = xp.reshape(start, (-1, 1, 1)) + place * xp.reshape(span / bins, (-1, 1, 1))
    used = xp.broadcast_to(step < xp.reshape(grid, (-1, 1, 1)), place.shape)
    return xp.reshape(place, (grid.shape[0], -1)), xp.reshape(used, (grid.shape[0], -1))


def _bins_one_by_one(
    xp: Namespace,
    X: Array,
    batch_indices: Array,
    regions: list[tuple[Array, Array, int, Array]],
    most: list[Array],
    bins: tuple[int, int],
    mode: str,
) -> Array:
    """The same as `_bins` where the number of samples is not known yet: a loop over them."""
    fold = xp.maximum if mode == "max" else xp.add

    def row(y: Int | Array, going: Bool, state: tuple[Array, ...]) -> tuple[Bool, tuple[Array, ...], tuple[()]]:
        def sample(x: Int | Array, going: Bool, state: tuple[Array, ...]) -> tuple[Bool, tuple[Array, ...], tuple[()]]:
            axes = [_line(xp, *r, xp.asarray(n, dtype=X.dtype)) for r, n in zip(regions, (y, x), strict=True)]
            return going, (fold(state[0], _bins(xp, X, batch_indices, axes, [1, 1], bins, mode)),), ()

        return going, xp.while_loop(sample, most[1], True, state)[0], ()

    start = xp.full((batch_indices.shape[0], X.shape[1], *bins), float("-inf") if mode == "max" else 0.0, dtype=X.dtype)
    return xp.while_loop(row, most[0], True, (start,))[0][0]


def _bins(
    xp: Namespace,
    X: Array,
    batch_indices: Array,
    axes: list[tuple[Array, Array]],
    most: list[int],
    bins: tuple[int, int],
    mode: str,
) -> Array:
    """Sample every region at the product of its rows and columns; the sum or maximum of the samples of each bin."""
    count = batch_indices.shape[0]
    (ys, used_y), (xs, used_x) = axes
    h, w = X.shape[2:]
    images = xp.take(X, xp.astype(batch_indices, xp.int64), axis=0)
    valid = xp.expand_dims((ys >= -1.0) & (ys <= h), axis=2) & xp.expand_dims((xs >= -1.0) & (xs <= w), axis=1)
    rows = xp.expand_dims(xp.clip(ys, 0.0, h - 1.0), axis=2)
    columns = xp.expand_dims(xp.clip(xs, 0.0, w - 1.0), axis=1)
    shape = (count, 1, ys.shape[1], xs.shape[1])
    weights, places = [], []
    for corner in range(4):
        parts = []
        for position, bit, size in ((rows, corner & 1, h), (columns, corner >> 1, w)):
            low = xp.floor(position)
            share = position - low
            index = xp.clip(low + float(bit), 0.0, size - 1.0)
            parts.append((share if bit else 1.0 - share, xp.astype(index, xp.int64)))
        weights.append(xp.where(valid, parts[0][0] * parts[1][0], xp.zeros_like(parts[0][0] * parts[1][0])))
        places.append(parts[0][1] * w + parts[1][1])
    flat = xp.reshape(images, (*images.shape[:2], h * w))
    samples = []
    for weight, place in zip(weights, places, strict=True):
        index = xp.broadcast_to(
            xp.reshape(xp.broadcast_to(place, (count, *shape[2:])), (count, 1, -1)), (*flat.shape[:2], prod(shape[2:]))
        )
        samples.append(xp.take_along_axis(flat, index, axis=2) * xp.reshape(weight, (count, 1, -1)))
    inner = (count, X.shape[1], bins[0], most[0], bins[1], most[1])
    used = xp.reshape(
        xp.expand_dims(used_y, axis=2) & xp.expand_dims(used_x, axis=1), (count, 1, bins[0], most[0], bins[1], most[1])
    )
    if mode == "max":  # the largest of the weighted corners, as the operator has it
        best = samples[0]
        for sample in samples[1:]:
            best = xp.maximum(best, sample)
        best = xp.where(used, xp.reshape(best, inner), xp.asarray(float("-inf"), dtype=X.dtype))
        return xp.max(best, axis=(3, 5))
    total = xp.reshape(samples[0] + samples[1] + samples[2] + samples[3], inner)
    return xp.sum(xp.where(used, total, xp.zeros_like(total)), axis=(3, 5))


@op("RoiAlign", since=10)
def roi_align_10(
    xp: Namespace,
    X: Array,
    rois: Array,
    batch_indices: Array,
    *,
    mode: Text = "avg",
    output_height: Int = 1,
    output_width: Int = 1,
    sampling_ratio: Int = 0,
    spatial_scale: Float = 1.0,
) -> Array:
    """RoiAlign without the half-pixel shift that opset 16 introduced."""
    return roi_align(
        xp,
        X,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@op("MaxRoiPool")
def max_roi_pool(xp: Namespace, X: Array, rois: Array, *, pooled_shape: Ints, spatial_scale: Float = 1.0) -> Array:
    """The maximum over each of `pooled_shape` bins of every region (batch, x1, y1, x2, y2), in whole pixels.

    Halves are rounded away from 0. A bin without pixels gives 0.
    """
    boxes = rois[:, 1:] * spatial_scale
    boxes = xp.sign(boxes) * xp.floor(xp.abs(boxes) + 0.5)
    images = xp.take(X, xp.astype(rois[:, 0], xp.int64), axis=0)
    inside = []
    for axis, bins in enumerate(pooled_shape):
        low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
        size = xp.maximum(high - low + 1.0, xp.ones_like(low)) / bins
        steps = xp.arange(bins, dtype=X.dtype)
        n = float(X.shape[2 + axis])
        first = xp.clip(xp.floor(steps[None, :] * size[:, None]) + low[:, None], 0.0, n)
        last = xp.clip(xp.ceil((steps[None, :] + 1.0) * size[:, None]) + low[:, None], 0.0, n)
        pixels = xp.arange(X.shape[2 + axis], dtype=X.dtype)[None, None, :]
        inside.append((pixels >= first[:, :, None]) & (pixels < last[:, :, None]))
    lowest = xp.asarray(float("-inf"), dtype=X.dtype)
    some = [xp.any(pixels, axis=2) for pixels in inside]
    rows = []
    for row in range(pooled_shape[0]):
        column_max = xp.max(xp.where(inside[0][:, None, row, :, None], images, lowest), axis=2)
        rows.append(xp.max(xp.where(inside[1][:, None, :, :], column_max[:, :, None, :], lowest), axis=3))
    y = xp.stack(rows, axis=2)
    return xp.where((some[0][:, :, None] & some[1][:, None, :])[:, None, :, :], y, xp.zeros_like(y))


@op("NonMaxSuppression", since=10, data_dependent_shape=True)
def non_max_suppression(
    xp: Namespace,
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Int = 0,
    iou_threshold: Float = 0.0,
    score_threshold: Float | None = None,
    *,
    center_point_box: Flag = 0,
) -> Array:
    """Choose boxes (N, boxes, 4) by scores (N, classes, boxes): rows (batch, class, box), best first.

    A box is dropped when it overlaps a better one by more than `iou_threshold`, or scores at most `score_threshold`.
    """
    if center_point_box:
        x, y, w, h = (boxes[..., i] for i in range(4))
        corners = [y - h / 2, x - w / 2, y + h / 2, x + w / 2]
    else:
        corners = [boxes[..., i] for i in range(4)]
    y1, y2 = xp.minimum(corners[0], corners[2]), xp.maximum(corners[0], corners[2])
    x1, x2 = xp.minimum(corners[1], corners[3]), xp.maximum(corners[1], corners[3])
    rows: list[list[int]] = []
    for batch in range(scores.shape[0]):
        sides = [side[batch, :] for side in (y1, x1, y2, x2)]
        for label in range(scores.shape[1]):
            kept = _kept(xp, sides, scores[batch, label, :], max_output_boxes_per_class, iou_threshold, score_threshold)
            rows.extend([batch, label, box] for box in kept)
    return xp.reshape(xp.asarray(rows, dtype=xp.int64), (len(rows), 3))


def _kept(
    xp: Namespace, sides: list[Array], scores: Array, most: int, threshold: float, score_threshold: float | None
) -> list[int]:
    """Boxes of one class that survive, best first: one vectorised comparison with the rest for each."""
    alive = xp.ones(scores.shape, dtype=xp.bool) if score_threshold is None else scores > score_threshold
    y1, x1, y2, x2 = sides
    area = (y2 - y1) * (x2 - x1)
    lowest = xp.full_like(scores, float("-inf"))
    kept: list[int] = []
    while len(kept) < most and bool(xp.any(alive)):
        best = int(xp.argmax(xp.where(alive, scores, lowest)))
        kept.append(best)
        height = xp.minimum(y2, y2[best]) - xp.maximum(y1, y1[best])
        width = xp.minimum(x2, x2[best]) - xp.maximum(x1, x1[best])
        common = xp.clip(height, 0.0, None) * xp.clip(width, 0.0, None)
        union = area + area[best] - common
        overlaps = xp.where(union > 0, common / xp.where(union > 0, union, xp.ones_like(union)), xp.zeros_like(union))
        indices = xp.arange(scores.shape[0], dtype=xp.int64)
        alive = alive & (overlaps <= threshold) & (indices != best)
    return kept
