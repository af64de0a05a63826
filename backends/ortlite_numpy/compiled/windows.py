"""Convolutions as products of their windows and the weights, in panels.

With channels last, what a window shows of a line of the image is one stretch of memory, and the next window's is so
many channels further on: lines, with zeros around them where there is a border, are multiplied as they are, and so are
groups of channels, of which every column is a stretch. Without groups, windows with gaps between their columns, and
lines of few windows, are first copied side by side.
"""

from __future__ import annotations

from ortlite_numpy.compiled.functions import hard_sigmoid, hard_swish, held, sigmoid, swish, tanh
from ortlite_numpy.compiled.jit import loops, wide
from ortlite_numpy.compiled.products import multiply_rows, tile
from ortlite_numpy.record import numpy as np

__all__ = [
    "HELD", "KINDS", "activate", "bounds", "columns_first", "columns_last", "finish", "multiply_lines",
    "multiply_windows",
]  # fmt: skip

HELD, SIGMOID, TANH, LEAKY, HARD_SIGMOID, SWISH, HARD_SWISH = range(7)
KINDS = {
    "": HELD, "Relu": HELD, "Clip": HELD, "Sigmoid": SIGMOID, "Tanh": TANH, "LeakyRelu": LEAKY,
    "HardSigmoid": HARD_SIGMOID, "QuickGelu": SWISH, "HardSwish": HARD_SWISH,
}  # fmt: skip


@loops()
def activate(y, kind, alpha, beta):
    """An activation with its parameters, in place: of two arrays, LLVM must first know that they are apart."""
    wide()
    if kind == HELD:
        for i in range(y.size):
            y[i] = held(y[i], alpha, beta)
    elif kind == SIGMOID:
        for i in range(y.size):
            y[i] = sigmoid(y[i])
    elif kind == TANH:
        for i in range(y.size):
            y[i] = tanh(y[i])
    elif kind == LEAKY:
        for i in range(y.size):
            y[i] = y[i] * alpha if y[i] < 0 else y[i]
    elif kind == HARD_SIGMOID:
        for i in range(y.size):
            y[i] = hard_sigmoid(y[i], alpha, beta)
    elif kind == SWISH:
        for i in range(y.size):
            y[i] = swish(y[i], alpha, beta)
    else:
        for i in range(y.size):
            y[i] = hard_swish(y[i])


@loops()
def finish(y, width, left, right, kind, alpha, beta):
    """The activation of columns [left, right) of rows of y, in place, where `bounds` is not all of it."""
    if kind == HELD or not y.size:
        return
    whole = right - left == width  # then the rows are one stretch
    length = y.size if whole else right - left
    for at in range(left, y.size, y.size if whole else width):
        activate(y[at : at + length], kind, alpha, beta)


@loops()
def bounds(y, kind, alpha, beta):
    """What the products are held between as they are made."""
    if kind == HELD:
        return alpha, beta
    return y.dtype.type(-np.inf), y.dtype.type(np.inf)


@loops()
def copy_run(x, at, y, to, n):
    """N elements of x to y."""
    part, result = x[at : at + n], y[to : to + n]
    for i in range(n):
        result[i] = part[i]


@loops()
def clear_run(y, to, n):
    """N zeros to y."""
    result = y[to : to + n]
    for i in range(n):
        result[i] = 0


@loops()
def columns_last(x, kernel, steps, width, start, stop, y):
    """What windows [start, stop), lines of `width`, show of each image (N, H, W, C): y (windows, kh · kw · C).

    `kernel` is (kh, kw), `steps` as for channels first.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    n, h, w, c = x.shape
    kh, kw = kernel[0], kernel[1]
    flat, out = x.reshape(x.size), y.reshape(y.size)
    to = 0
    for image in range(n):
        for window in range(start, stop):
            i, q = window // width, window % width * sw - left
            b0, b1 = 0, kw
            while b0 < kw and q + b0 * dw < 0:
                b0 += 1
            while b1 > b0 and q + (b1 - 1) * dw >= w:
                b1 -= 1
            for a in range(kh):
                r = i * sh + a * dh - top
                if r < 0 or r >= h:
                    clear_run(out, to, kw * c)
                else:
                    at = ((image * h + r) * w + q) * c
                    clear_run(out, to, b0 * c)
                    if dw == 1:
                        copy_run(flat, at + b0 * c, out, to + b0 * c, (b1 - b0) * c)
                    else:
                        for b in range(b0, b1):
                            copy_run(flat, at + b * dw * c, out, to + b * c, c)
                    clear_run(out, to + b1 * c, (kw - b1) * c)
                to += kw * c


@loops()
def columns_first(x, kernel, steps, width, start, stop, y):
    """The same of images (N, C, H, W), lines [start, stop) of windows side by side: y (kh · kw · C, windows)."""
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    n, c, h, w = x.shape
    kh, kw = kernel[0], kernel[1]
    for place in range(kh * kw * c):
        a, b, channel = place // (kw * c), place // c % kw, place % c
        row = y[place]
        q = b * dw - left
        first = min(max((sw - 1 - q) // sw, 0), width)  # the first window that sees the image here, and the end
        last = max(min((w - 1 - q) // sw + 1, width), first)
        to = 0
        for image in range(n):
            plane = x[image, channel]
            for i in range(start, stop):
                r = i * sh + a * dh - top
                if r < 0 or r >= h:
                    clear_run(row, to, width)
                else:
                    clear_run(row, to, first)
                    line, result = plane[r], row[to + first : to + last]
                    if sw == 1:
                        part = line[q + first : q + last]
                        for j in range(result.size):
                            result[j] = part[j]
                    else:
                        for j in range(result.size):
                            result[j] = line[q + (first + j) * sw]
                    clear_run(row, to + last, width - last)
                to += width


@loops()
def multiply_windows(x, kernel, steps, b, bias, z, kind, alpha, beta, y, height, width, most, unit, tall, deep, block,
                     start, stop):  # fmt: skip
    """A convolution of x (N, H, W, C) without groups, whose windows make N times `height` lines of `width`.

    Of the windows, by `unit`, or where that is 0, of the panels `b` of the weights, [start, stop) are computed. Up to
    `most` windows at once are brought into columns, multiplied by the panels, and finished. y and what is added, z, are
    flat with channels last; z may be empty. `kernel` is (kh, kw), `steps` are strides, dilations and the pads before,
    each for rows and columns; `tall`, `deep` and `block` are as for multiply_rows.
    """
    n, h, w, c = x.shape
    depth, each = b.shape[1], height * width
    m = y.size // (n * each)
    plain = depth == c and steps[0] * steps[1] == 1 and steps[4] == steps[5] == 0 and h == height and w == width
    flat = x.reshape(x.size)
    low, high = bounds(y, kind, alpha, beta)
    cols = np.empty(0 if plain else min(most, each) * depth, x.dtype)
    window, after, left, right = 0, n * each, start * b.shape[2], min(stop * b.shape[2], m)
    if unit:
        window, after, left, right = start * unit, min(stop * unit, after), 0, m
    while window < after:
        image, at = window // each, window % each
        rows = min(most, after - window, each - at)
        to = window * m
        part = y[to : to + rows * m]
        source = flat[window * c : (window + rows) * c] if plain else cols[: rows * depth]
        if not plain:
            columns_last(x[image : image + 1], kernel, steps, width, at, at + rows, source.reshape((rows, depth)))
        begin, end = (0, (rows + tall - 1) // tall) if unit else (start, stop)
        multiply_rows(
            source, depth, 1, b, bias, z[to : to + rows * m], low, high, part, m, rows, m, tall, deep, block, unit != 0,
            begin, end,
        )  # fmt: skip
        finish(part, m, left, right, kind, alpha, beta)
        window += rows


@loops()
def fill_lines(x, first, image, row, rows, column, columns, y):
    """Rows and columns of an image from `row` and `column` on, zeros where there are none: y, flat, channels last."""
    c, h, w = (x.shape[1], x.shape[2], x.shape[3]) if first else (x.shape[3], x.shape[1], x.shape[2])
    flat = x.reshape(x.size)
    begin = min(max(-column, 0), columns)
    end = max(min(w - column, columns), begin)
    for r in range(rows):
        to, i = r * columns * c, row + r
        if i < 0 or i >= h:
            clear_run(y, to, columns * c)
            continue
        clear_run(y, to, begin * c)
        if first:
            for channel in range(c):
                line = x[image, channel, i]
                for j in range(begin, end):
                    y[to + j * c + channel] = line[column + j]
        else:
            copy_run(flat, ((image * h + i) * w + column + begin) * c, y, to + begin * c, (end - begin) * c)
        clear_run(y, to + end * c, (columns - end) * c)


@loops()
def column_of(panel, each, wide, lanes):
    """The first column of a panel, where groups of `wide` columns have `each` panels of `lanes`."""
    return panel // each * wide + panel % each * lanes


@loops()
def multiply_lines(x, first, groups, kernel, steps, b, bias, z, kind, alpha, beta, y, height, width, cut, most,
                   by_panels, tall, deep, start, stop):  # fmt: skip
    """The same of windows without gaps between their columns, or of `groups` of channels; x may be (N, C, H, W), with
    its channels `first`.

    Of the lines, or `cut` windows of one at a time, or `by_panels` of the panels, [start, stop) are computed. Up to
    `most` lines at once have what they need of the image around them.
    """
    n, h, w, c = x.shape
    if first:
        c, h, w = h, w, c
    kh, kw, sh, sw, dh, dw = kernel[0], kernel[1], steps[0], steps[1], steps[2], steps[3]
    top, left = steps[4], steps[5]
    count, whole, lanes = b.shape
    m = y.size // (n * height * width)
    each, wide, mine = count // groups, m // groups, c // groups
    tail, lowermost = (kw - 1) * dw + 1, (kh - 1) * dh  # columns of a window, and its last row
    columns = (min(cut, width) - 1) * sw + tail
    bare = not first and top == left == 0 and (height - 1) * sh + lowermost < h and (width - 1) * sw + tail <= w
    source, panels = x.reshape(x.size), b.reshape(b.size)
    if not bare:
        source = np.empty(((most - 1) * sh + lowermost + 1) * columns * c, x.dtype)
    pitch = (w if bare else columns) * c
    # What a window shows are stretches of memory in lines: without groups one of each line, else one of each column.
    lines, outer, parted, inner, stretch = 1, 0, kh, dh * pitch, kw * c
    if groups > 1:
        lines, outer, parted, inner, stretch = kh, dh * pitch, kw, dw * c, mine
    low, high = bounds(y, kind, alpha, beta)
    lowest, highest = y.dtype.type(-np.inf), y.dtype.type(np.inf)
    cuts = (width + cut - 1) // cut
    unit, after, begin, end = (0, n * height * cuts, start, stop) if by_panels else (start, stop, 0, count)
    while unit < after:
        line, j0 = unit // cuts, unit % cuts * cut
        j1 = min(j0 + cut, width)
        image, i = line // height, line % height
        some = min(most, after - unit, height - i) if cuts == 1 else 1
        base = ((image * h + i * sh) * w + j0 * sw) * c
        if not bare:
            rows = (some - 1) * sh + lowermost + 1
            fill_lines(x, first, image, i * sh - top, rows, j0 * sw - left, columns, source)
            base = 0
        a, k = 0, 0  # the stretch, and the element of it
        while a < lines * parted:
            parts, many = min(max(deep // stretch, 1), parted - a % parted), min(deep, stretch - k)
            fresh, last = a == 0 and k == 0, a + parts == lines * parted and k + many == stretch
            least, greatest = (low, high) if last else (lowest, highest)
            added = 1 if last and z.size else 0
            place = base + a // parted * outer + a % parted * inner + k
            for panel in range(begin, end):
                column, right = column_of(panel, each, wide, lanes), (panel * whole + a * stretch + k) * lanes
                across = min(wide - panel % each * lanes, lanes)
                for l in range(some):
                    at = place + l * sh * pitch + panel // each * mine
                    to = ((line + l) * width + j0) * m + column
                    j, tiles = j0, (j1 - j0 + tall - 1) // tall
                    for t in range(tiles):
                        rows = (j1 - j + tiles - t - 1) // (tiles - t)
                        given, given_at, apart = (bias, column, 0) if fresh else (y, to, m)
                        tile(
                            rows, across, y, to, m, source, at, sw * c, inner, parts, panels, right, many,
                            whole * lanes, given, given_at, apart, z, to, added, least, greatest,
                        )  # fmt: skip
                        at, to, j = at + rows * sw * c, to + rows * m, j + rows
            k += many
            if k == stretch:
                a, k = a + parts, 0
        to = (line * width + j0) * m
        done = y[to : to + (some * width if cuts == 1 else j1 - j0) * m]
        to_right = m if end == count else column_of(end, each, wide, lanes)
        finish(done, m, column_of(begin, each, wide, lanes), to_right, kind, alpha, beta)
        unit += some
